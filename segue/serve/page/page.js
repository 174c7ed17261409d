"use strict";
// The page of `segue serve`: records or takes a file, shows its transcript word by word, translates texts and files.
// Everything goes through the endpoints that any client has; nothing is loaded from elsewhere.
(() => {
  const find = (id) => document.getElementById(id);
  const element = (tag, attributes, ...content) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  };
  const LONGEST_DRAWN = 64 << 20; // bytes of a file whose waveform is drawn: decoding takes ten times its memory
  let key = "";

  // --- The server ---

  const headers = () => (key ? { authorization: `Bearer ${key}` } : {});
  const request = async (path, options = {}) => {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Error("the server cannot be reached");
    }
    if (response.ok) return response;
    if (response.status === 401) find("key").hidden = false;
    const body = await response.json().catch(() => ({}));
    const again = response.headers.get("retry-after");
    const problem = new Error((body.error?.message ?? `the server answers ${response.status}`) + (again ? ` (retry in ${again} s)` : ""));
    problem.code = body.error?.code;
    problem.status = response.status;
    throw problem;
  };
  const form = (fields) => {
    const made = new FormData();
    for (const [name, value] of fields) made.append(name, value);
    return { method: "POST", body: made };
  };
  const say = (id, text, isTrouble = false) => {
    find(id).textContent = text;
    find(id).classList.toggle("trouble", isTrouble);
  };
  const download = (name, blob) => {
    const link = element("a", { download: name });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const copied = async (text, id) => {
    try {
      await navigator.clipboard.writeText(text);
      say(id, "Copied.");
    } catch {
      say(id, "The browser does not allow this page to copy.", true);
    }
  };
  const stem = (name) => name.replace(/\.[^.]*$/, "");

  let models = [];
  const fill = (select, names) => select.replaceChildren(...names.map((each) => element("option", { value: each }, each)));
  const list = async () => {
    find("trouble").hidden = true;
    try {
      models = (await (await request("v1/models")).json()).data;
    } catch (problem) {
      if (problem.status === 401 && !key) return; // the form for it is the message
      find("trouble").textContent = problem.message;
      find("trouble").hidden = false;
      return;
    }
    find("key").hidden = true;
    for (const [task, id] of [["speech_recognition", "speech"], ["translation", "translation"]]) {
      const names = models.filter((each) => each.task === task).map((each) => each.id);
      fill(find(`${id}-model`), names);
      find(id).hidden = !names.length;
      find(id).querySelector(".model").hidden = names.length < 2 && id === "speech";
    }
    find("to-translation").hidden = find("translation").hidden;
    find("none").hidden = !(find("speech").hidden && find("translation").hidden);
    targets();
  };
  const targets = () => {
    const model = models.find((each) => each.id === find("translation-model").value);
    const known = model?.target_languages ?? [];
    fill(find("target"), known);
    find("into").hidden = !known.length;
  };
  find("key").addEventListener("submit", (event) => {
    event.preventDefault();
    key = find("key-value").value.trim();
    list();
  });
  find("translation-model").addEventListener("change", targets);

  // --- Transcripts ---

  const player = find("player");
  let recording = null; // { blob, name }
  let words = [];
  let spans = [];
  let current = 0; // the word that the keyboard is at
  let playing = -1;
  let peaks = [];
  let work = null; // cancels the request under way

  const drawWords = (found) => {
    words = found.words ?? [];
    playing = -1;
    current = 0;
    spans = words.map((word, at) => {
      const span = element("span", { class: "word", tabindex: at ? "-1" : "0", role: "button" }, word.word);
      const confidence = word.confidence ?? 1;
      span.title = `${word.start.toFixed(2)} s, confidence ${Math.round(100 * confidence)} %`;
      span.style.setProperty("--lack", confidence < 0.9 ? String(Math.round(100 * (1 - confidence))) : "0");
      return span;
    });
    // The text says where spaces are; words alone do not.
    let rest = found.text;
    const parts = [];
    spans.forEach((span, at) => {
      const place = rest.indexOf(words[at].word);
      if (place > 0) parts.push(rest.slice(0, place));
      if (place >= 0) rest = rest.slice(place + words[at].word.length);
      parts.push(span);
    });
    find("transcript").replaceChildren(...(parts.length ? parts : [found.text || "No speech was recognized."]));
    find("result").hidden = false;
  };

  const asked = (more) => {
    const fields = [["model", find("speech-model").value], ...more];
    if (find("channel").value) fields.push(["channel", find("channel").value]);
    const made = form(fields);
    made.body.append("file", recording.blob, recording.name);
    return made;
  };
  const transcribe = async (blob, name) => {
    work?.abort();
    work = new AbortController();
    const { signal } = work;
    recording = { blob, name };
    if (player.src) URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(blob);
    find("heard").hidden = player.hidden = wave.hidden = false;
    find("result").hidden = true;
    say("speech-status", `Transcribing ${name} ...`);
    drawWave(blob);
    const started = performance.now();
    try {
      const made = asked([["response_format", "verbose_json"], ["timestamp_granularities[]", "word"]]);
      const found = await (await request("v1/audio/transcriptions", { ...made, signal })).json();
      drawWords(found);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      const warned = (found.warnings ?? []).map((each) => ` Note: ${each}.`).join("");
      say("speech-status", `${name}: ${found.duration.toFixed(1)} s of sound in ${seconds} s.${warned}`);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      say("speech-status", problem.message.replace(/^the file:/, () => `${name}:`), true);
      if (problem.code === "different_channels") find("channels").hidden = false;
    }
  };
  find("channel").addEventListener("change", () => transcribe(recording.blob, recording.name));

  const select = (at) => {
    if (!spans.length) return;
    spans[current].tabIndex = -1;
    current = Math.max(0, Math.min(at, spans.length - 1));
    spans[current].tabIndex = 0;
    spans[current].focus();
  };
  const start = () => {
    if (player.error) say("speech-status", "The browser cannot play this recording.", true);
    else player.play();
  };
  const play = (at) => {
    player.currentTime = words[at].start;
    start();
  };
  player.addEventListener("error", () => (player.hidden = true)); // the server reads more formats than browsers
  find("transcript").addEventListener("click", (event) => {
    const at = spans.indexOf(event.target.closest(".word"));
    if (at >= 0) {
      select(at);
      play(at);
    }
  });
  find("transcript").addEventListener("keydown", (event) => {
    const actions = {
      ArrowRight: () => select(current + 1),
      ArrowLeft: () => select(current - 1),
      Home: () => select(0),
      End: () => select(spans.length - 1),
      Enter: () => play(current),
      " ": () => (player.paused ? start() : player.pause()),
    };
    if (!spans.length || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });
  const follow = () => {
    const now = player.currentTime > 0 ? words.findLastIndex((word) => word.start <= player.currentTime + 0.02) : -1;
    if (now !== playing) {
      spans[playing]?.classList.remove("now");
      spans[now]?.classList.add("now");
      if (!player.paused) spans[now]?.scrollIntoView({ block: "nearest" });
      playing = now;
    }
    paint();
    if (!player.paused) requestAnimationFrame(follow);
  };
  for (const each of ["play", "seeked", "pause"]) player.addEventListener(each, follow);
  find("shade").addEventListener("change", () => find("transcript").classList.toggle("plain", !find("shade").checked));
  find("copy").addEventListener("click", () => copied(find("transcript").textContent, "speech-status"));
  for (const button of document.querySelectorAll("[data-form]")) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const { name } = recording;
        const made = asked([["response_format", button.dataset.form]]);
        const text = await (await request("v1/audio/transcriptions", made)).blob();
        download(`${stem(name)}.${button.dataset.form === "text" ? "txt" : button.dataset.form}`, text);
      } catch (problem) {
        say("speech-status", problem.message, true);
      }
      button.disabled = false;
    });
  }

  // --- The waveform ---

  const wave = find("wave");
  const drawWave = async (blob) => {
    peaks = [];
    paint();
    wave.hidden = blob.size > LONGEST_DRAWN;
    if (wave.hidden) return;
    try {
      const context = new OfflineAudioContext(1, 1, 8000);
      const sound = await context.decodeAudioData(await blob.arrayBuffer());
      if (recording.blob !== blob) return;
      const samples = sound.getChannelData(0);
      const count = Math.min(1000, samples.length);
      peaks = Array.from({ length: count }, (_, at) => {
        let most = 0;
        const end = Math.floor(((at + 1) * samples.length) / count);
        for (let place = Math.floor((at * samples.length) / count); place < end; place++) {
          most = Math.max(most, Math.abs(samples[place]));
        }
        return most;
      });
      paint();
    } catch {
      if (recording.blob === blob) wave.hidden = true; // as above: without a waveform, the rest works
    }
  };
  const paint = () => {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [wave.clientWidth * scale, wave.clientHeight * scale];
    if (wave.width !== width || wave.height !== height) [wave.width, wave.height] = [width, height];
    const pen = wave.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(wave);
    const most = Math.max(0.01, ...peaks);
    const gone = player.duration > 0 && Number.isFinite(player.duration) ? player.currentTime / player.duration : 0;
    peaks.forEach((peak, at) => {
      pen.fillStyle = style.color;
      pen.globalAlpha = at / peaks.length < gone ? 1 : 0.45;
      const tall = Math.max(scale, (0.9 * height * peak) / most);
      pen.fillRect((at * width) / peaks.length, (height - tall) / 2, Math.max(1, (0.7 * width) / peaks.length), tall);
    });
  };
  wave.addEventListener("click", (event) => {
    if (Number.isFinite(player.duration)) player.currentTime = (event.offsetX / wave.clientWidth) * player.duration;
  });
  addEventListener("resize", paint);

  // --- Files and the microphone ---

  const begin = (file) => {
    find("channels").hidden = true;
    find("channel").value = "";
    transcribe(file, file.name);
  };
  const drop = find("drop");
  find("choose").addEventListener("click", () => find("recording").click());
  find("recording").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) begin(file);
    event.target.value = "";
  });
  const isFile = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => {
    if (!isFile(event) || find("speech").hidden) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (/\.(srt|vtt|ass|ssa|txt)$/i.test(file.name) && !find("translation").hidden) translateFile(file);
    else if (!find("speech").hidden) begin(file);
  });

  let recorder = null;
  // While someone speaks, what is recognized so far; the whole recording is transcribed again at the end.
  const listened = (type) => {
    const format = /^audio\/(webm|ogg)/.exec(type)?.[1];
    if (!format) return null;
    const address = new URL(`v1/audio/stream?model=${encodeURIComponent(find("speech-model").value)}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, key ? ["segue", `openai-insecure-api-key.${key}`] : []);
    let final = "";
    socket.addEventListener("open", () => socket.send(JSON.stringify({ config: { format } })));
    socket.addEventListener("message", ({ data }) => {
      const { text, partial = "", committed = "" } = JSON.parse(data);
      if (text) final += `${text} `;
      const rest = partial.startsWith(committed) ? partial.slice(committed.length) : partial;
      const sure = final + (partial.startsWith(committed) ? committed : "");
      find("live").replaceChildren(element("span", { class: "committed" }, sure), text === undefined ? rest : "");
    });
    return socket;
  };
  const record = async () => {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (problem) {
      const why = navigator.mediaDevices ? problem.message : "browsers allow it on https and on localhost only";
      say("speech-status", `The microphone cannot be used: ${why}`, true);
      return;
    }
    const parts = [];
    const known = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus"].find((each) => MediaRecorder.isTypeSupported(each));
    recorder = new MediaRecorder(stream, known ? { mimeType: known } : {});
    const socket = listened(recorder.mimeType);
    const waiting = [];
    recorder.addEventListener("dataavailable", ({ data }) => {
      parts.push(data);
      if (!socket || socket.readyState > WebSocket.OPEN) return;
      waiting.push(data);
      if (socket.readyState === WebSocket.OPEN) waiting.splice(0).forEach((each) => socket.send(each));
    });
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach((each) => each.stop());
      if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ eof: 1 }));
      else socket?.close();
      find("record").textContent = "Record";
      find("record").setAttribute("aria-pressed", "false");
      find("live").hidden = true;
      const kind = recorder.mimeType.split(";")[0];
      recorder = null;
      transcribe(new Blob(parts, { type: kind }), `recording.${kind.split("/")[1] || "webm"}`);
    });
    find("live").replaceChildren();
    find("live").hidden = false;
    find("heard").hidden = find("result").hidden = true;
    player.pause();
    find("record").textContent = "Stop";
    find("record").setAttribute("aria-pressed", "true");
    say("speech-status", "Recording ...");
    recorder.start(250);
  };
  find("record").addEventListener("click", () => (recorder ? recorder.stop() : record()));

  // --- Translation ---

  let translation = null; // { name, blob }
  const chosen = () => {
    const fields = { model: find("translation-model").value };
    if (find("target").value) fields.target = find("target").value;
    return fields;
  };
  const shown = (text, name, type) => {
    find("target-text").textContent = text;
    find("translated").hidden = false;
    translation = { name, blob: new Blob([text], { type }) };
  };
  const warned = (found) => (found.warnings ?? []).map((each) => ` Check: ${each}.`).join("");
  find("translate").addEventListener("submit", async (event) => {
    event.preventDefault();
    find("translated").hidden = true;
    say("translation-status", "Translating ...");
    try {
      const input = find("source").value.split("\n");
      const body = JSON.stringify({ input, ...chosen() });
      const options = { method: "POST", body, headers: { "content-type": "application/json" } };
      const found = await (await request("v1/translations", options)).json();
      shown(`${found.translations.map((each) => each.text).join("\n")}`, "translation.txt", "text/plain");
      say("translation-status", `Translated.${warned(found)}`);
    } catch (problem) {
      say("translation-status", problem.message, true);
    }
  });
  find("source").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("translate").requestSubmit();
  });
  const translateFile = async (file) => {
    find("translated").hidden = true;
    say("translation-status", `Translating ${file.name} ...`);
    try {
      const made = form(Object.entries({ ...chosen(), response_format: "json" }));
      made.body.append("file", file, file.name);
      const found = await (await request("v1/translations", made)).json();
      const ending = file.name.split(".").pop();
      shown(found.text, `${stem(file.name)}.${found.target || "translated"}.${ending}`, "text/plain");
      say("translation-status", `${file.name} is translated.${warned(found)}`);
    } catch (problem) {
      say("translation-status", problem.message, true);
    }
  };
  find("choose-subtitles").addEventListener("click", () => find("subtitles").click());
  find("subtitles").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) translateFile(file);
    event.target.value = "";
  });
  find("copy-translation").addEventListener("click", () => copied(find("target-text").textContent, "translation-status"));
  find("save-translation").addEventListener("click", () => download(translation.name, translation.blob));
  find("to-translation").addEventListener("click", () => {
    find("source").value = find("transcript").textContent;
    find("source").scrollIntoView({ block: "center" });
    find("source").focus();
  });

  list();
})();
