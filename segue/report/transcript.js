"use strict";
// Plays a recording, follows it word by word, and lets its transcript be mended and saved. The words are JSON beside the
// transcript: [text, start, end, confidence, has a space before it, number of the speaker or -1, number of the cue].
(() => {
  const root = document.getElementById("transcript");
  const data = document.getElementById("data");
  const { audio: name, duration, speakers, words: rows, starts, cues } = JSON.parse(data.textContent);
  const [turns, people, said] = [".turns", ".people", ".said"].map((each) => root.querySelector(each));
  const player = root.querySelector("audio");
  const buttons = Object.fromEntries([...root.querySelectorAll("button[name]")].map((each) => [each.name, each]));
  const DOUBTFUL = 0.6;
  let words = rows.map(([text, start, end, confidence, space, speaker, cue]) => ({
    text, start, end, confidence, space, speaker, cue, begins: false,
  }));
  for (const at of starts) words[at].begins = true;
  let spans = [];
  let current = 0; // the word that the keyboard is at
  let playing = -1; // the word that is heard
  let isChanged = false;

  const element = (tag, attributes, ...content) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  };
  const two = (number) => String(number).padStart(2, "0");
  const clock = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    const rest = two(Math.floor(seconds) % 60);
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${rest}`;
  };
  const written = (some) => some.map(({ text, space }, at) => (space && at ? " " : "") + text).join("");

  // Runs of words between which `isCut` is false.
  const divided = (isCut) => {
    const found = [];
    words.forEach((word, at) => {
      if (at === 0 || isCut(words[at - 1], word)) found.push([]);
      found[found.length - 1].push(word);
    });
    return found;
  };
  const paragraphs = () => divided((one, other) => other.begins || one.speaker !== other.speaker);

  const changed = () => {
    isChanged = true;
    said.textContent = "not saved";
  };

  // In four steps, since a color for each word takes a browser seconds for ten thousand of them.
  const kind = ({ confidence, mended }) =>
    mended ? "word mended" : confidence < 0.9 ? `word doubt${Math.min(4, Math.floor(5 * (1.1 - confidence)))}` : "word";

  const draw = () => {
    spans = [];
    playing = -1;
    turns.replaceChildren(...paragraphs().map((paragraph) => {
      const first = spans.length;
      const text = element("p", { dir: "auto" });
      paragraph.forEach((word, at) => {
        const span = element("span", { class: kind(word), tabindex: "-1" }, word.text);
        if (at && word.space) text.append(" ");
        text.append(span);
        spans.push(span);
      });
      const head = element("header", {});
      if (speakers.length) {
        const choice = element("select", { "aria-label": "Speaker", "data-first": first });
        choice.append(...speakers.map((each, number) => element("option", { value: number }, each || "?")));
        if (paragraph[0].speaker < 0) choice.prepend(element("option", { value: -1 }, "?"));
        choice.value = String(paragraph[0].speaker);
        head.append(choice);
      }
      const time = clock(paragraph[0].start);
      head.append(element("button", { type: "button", class: "time", "data-first": first, title: "Hear it" }, time));
      return element("section", {}, head, text);
    }));
    current = Math.min(current, Math.max(spans.length - 1, 0));
    spans[current]?.setAttribute("tabindex", "0");
    follow();
  };

  const drawPeople = () => {
    people.replaceChildren(...speakers.map((each, number) => {
      const box = element("input", { value: each, "aria-label": `Name of speaker ${number + 1}`, size: 12 });
      box.addEventListener("change", () => {
        speakers[number] = box.value.trim() || each;
        box.value = speakers[number];
        changed();
        draw();
      });
      return box;
    }));
    const add = element("button", { type: "button" }, speakers.length ? "Add a speaker" : "Name the speakers");
    add.addEventListener("click", () => {
      if (!speakers.length) words.forEach((word) => (word.speaker = 0));
      speakers.push(`Speaker ${speakers.length + 1}`);
      changed();
      drawPeople();
      draw();
      people.querySelectorAll("input")[speakers.length - 1].select();
    });
    people.append(add);
  };

  // The last word that has begun at a time, -1 before the first.
  const wordAt = (seconds) => {
    let [low, high] = [0, words.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (words[middle].start <= seconds + 0.02) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };

  const follow = () => {
    const now = player && (player.currentTime > 0 || !player.paused) ? wordAt(player.currentTime) : -1;
    if (now !== playing) {
      spans[playing]?.classList.remove("now");
      spans[now]?.classList.add("now");
      playing = now;
      const box = spans[now]?.getBoundingClientRect();
      const top = root.querySelector(".tools").getBoundingClientRect().bottom;
      if (box && !player.paused && (box.top < top || box.bottom > innerHeight - 40)) {
        scrollTo({ top: scrollY + box.top - top - (innerHeight - top) / 4, behavior: "smooth" });
      }
    }
    if (player && !player.paused) requestAnimationFrame(follow);
  };

  const play = (at) => {
    if (!player) return;
    player.currentTime = words[at].start;
    player.play();
  };
  const toggle = () => {
    if (player) player.paused ? player.play() : player.pause();
  };
  const select = (at) => {
    if (!spans.length) return;
    spans[current]?.setAttribute("tabindex", "-1");
    current = Math.max(0, Math.min(at, spans.length - 1));
    spans[current].setAttribute("tabindex", "0");
    spans[current].focus({ preventScroll: true });
    spans[current].scrollIntoView({ block: "nearest" });
  };

  // A word becomes a box. Several words in it share the time of the one; none delete it.
  const mend = (at) => {
    const word = words[at];
    const box = element("input", { class: "mend", "aria-label": "Mend this word", size: Math.max(4, word.text.length + 2) });
    box.value = word.text;
    let isDone = false;
    const end = (isKept) => {
      if (isDone) return;
      isDone = true;
      const texts = box.value.split(/\s+/).filter(Boolean);
      if (!isKept || texts.join(" ") === word.text) {
        box.replaceWith(spans[at]);
        select(at);
        return;
      }
      const letters = texts.reduce((sum, each) => sum + each.length, 0);
      let start = word.start;
      const mended = texts.map((text, number) => {
        const end = start + ((word.end - word.start) * text.length) / letters;
        const begins = number === 0 && word.begins;
        const made = { ...word, text, start, end, begins, confidence: 1, mended: true, space: number > 0 || word.space };
        start = end;
        return made;
      });
      if (!mended.length && word.begins && words[at + 1]?.speaker === word.speaker) words[at + 1].begins = true;
      words.splice(at, 1, ...mended);
      changed();
      draw();
      select(at);
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
      event.stopPropagation();
    });
    box.addEventListener("blur", () => end(true));
    spans[at].replaceWith(box);
    box.select();
  };

  // A new paragraph begins with this word, or no longer does.
  const split = (at) => {
    if (at === 0 || words[at - 1].speaker !== words[at].speaker) return;
    words[at].begins = !words[at].begins;
    changed();
    draw();
    select(at);
  };

  const speak = (first, speaker) => {
    for (let at = first; at < words.length; at++) {
      if (at > first && (words[at].begins || words[at].speaker !== words[at - 1].previous)) break;
      words[at].previous = words[at].speaker;
      words[at].speaker = speaker;
      if (at === first) words[at].begins = true;
    }
    words.forEach((word) => delete word.previous);
    changed();
    draw();
  };

  const doubtful = () => {
    const count = words.length;
    for (let step = 1; step <= count; step++) {
      const at = (current + step) % count;
      if (words[at].confidence < DOUBTFUL) {
        select(at);
        spans[at].scrollIntoView({ block: "center" });
        return;
      }
    }
  };

  turns.addEventListener("click", (event) => {
    const at = spans.indexOf(event.target.closest(".word"));
    if (at >= 0) {
      select(at);
      play(at);
    }
    const time = event.target.closest(".time");
    if (time) play(Number(time.dataset.first));
  });
  turns.addEventListener("dblclick", (event) => {
    const at = spans.indexOf(event.target.closest(".word"));
    if (at >= 0) mend(at);
  });
  turns.addEventListener("change", (event) => {
    if (event.target.matches("select")) speak(Number(event.target.dataset.first), Number(event.target.value));
  });
  turns.addEventListener("pointerover", (event) => {
    const at = spans.indexOf(event.target.closest(".word"));
    if (at >= 0) {
      const { start, confidence, mended } = words[at];
      spans[at].title = `${clock(start)}, ${mended ? "mended" : `confidence ${Math.round(100 * confidence)}%`}`;
    }
  });
  document.addEventListener("keydown", (event) => {
    const isFree = event.target === document.body || event.target.matches(".word");
    if (!isFree || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      " ": toggle,
      ArrowRight: () => select(current + 1),
      ArrowLeft: () => select(current - 1),
      Enter: () => (event.shiftKey ? split(current) : mend(current)),
      n: doubtful,
      p: () => play(current),
    };
    if (!(event.key in actions) || (!spans.length && event.key !== " ")) return;
    event.preventDefault();
    actions[event.key]();
  });
  buttons.mend.addEventListener("click", () => spans.length && mend(current));
  buttons.next.addEventListener("click", doubtful);
  root.querySelector("[name=shade]").addEventListener("change", (event) => {
    root.classList.toggle("plain", !event.target.checked);
  });
  root.querySelector("[name=speed]")?.addEventListener("change", (event) => {
    player.playbackRate = Number(event.target.value);
  });
  if (player) for (const each of ["play", "seeked", "timeupdate"]) player.addEventListener(each, follow);

  const round = (number, digits) => Number(number.toFixed(digits));
  const of = (speaker) => (speaker < 0 ? {} : { speaker: speakers[speaker] });
  const shown = () => divided((one, other) => one.cue !== other.cue || one.speaker !== other.speaker);
  const asJson = () => JSON.stringify({
    audio: name,
    duration: round(duration, 3),
    text: written(words),
    segments: shown().map((some, id) => ({
      id, start: round(some[0].start, 3), end: round(some[some.length - 1].end, 3), text: written(some), ...of(some[0].speaker),
    })),
    words: words.map(({ text, start, end, confidence, speaker }) => ({
      word: text, start: round(start, 3), end: round(end, 3), confidence: round(confidence, 4), ...of(speaker),
    })),
  }) + "\n";
  const asText = () => paragraphs().map((some) => {
    const speaker = some[0].speaker < 0 ? "" : `${speakers[some[0].speaker]}  `;
    return `${speaker}${clock(some[0].start)}\n${written(some)}\n`;
  }).join("\n");
  const lines = (text) => {
    if (text.length <= 42) return text;
    const spaces = [...text.matchAll(/ /g)].map(({ index }) => index);
    const middle = spaces.sort((one, other) => Math.abs(one - text.length / 2) - Math.abs(other - text.length / 2))[0];
    return middle === undefined ? text : `${text.slice(0, middle)}\n${text.slice(middle + 1)}`;
  };
  const stamp = (milliseconds) => {
    const seconds = Math.floor(milliseconds / 1000);
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    return `${two(hours)}:${two(minutes)}:${two(seconds % 60)},${String(milliseconds % 1000).padStart(3, "0")}`;
  };
  const asSubtitles = () => {
    let [last, before] = [-1, 0];
    return shown().map((some, number, all) => {
      const [start, end] = cues[some[0].cue];
      const isWhole = all[number - 1]?.[0].cue !== some[0].cue && all[number + 1]?.[0].cue !== some[0].cue;
      const times = isWhole ? [start, end] : [some[0].start, some[some.length - 1].end].map((each) => Math.round(1000 * each));
      const from = Math.max(times[0], before);
      before = Math.max(times[1], from);
      const speaker = some[0].speaker;
      const prefix = speaker >= 0 && speaker !== last ? `${speakers[speaker]}: ` : "";
      last = speaker;
      // srt has no escapes: an invisible word joiner prevents that players take text for a tag.
      const text = lines(prefix + written(some)).replace(/<(?=[/a-z ])|\{(?=[\\a-z])|--(?=>)/gi, "$&\u2060");
      return `${number + 1}\n${stamp(from)} --> ${stamp(before)}\n${text}\n`;
    }).join("\n");
  };
  const asPage = () => {
    const rows = words.map((each) => [
      each.text, each.start, each.end, each.confidence, each.space, each.speaker, each.cue,
    ]);
    const starts = words.flatMap(({ begins }, at) => (begins ? [at] : []));
    const copy = document.documentElement.cloneNode(true);
    for (const each of copy.querySelectorAll(".turns, .people, .said")) each.replaceChildren();
    const kept = { audio: name, duration, speakers, words: rows, starts, cues };
    copy.querySelector("noscript").replaceChildren(element("p", { dir: "auto" }, written(words)));
    copy.querySelector("#data").textContent = JSON.stringify(kept).replaceAll("<", "\\u003c");
    return `<!doctype html>\n${copy.outerHTML}\n`;
  };

  const save = (suffix, type, text) => {
    const link = element("a", { download: `${root.dataset.stem}.${suffix}` });
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    isChanged = false;
    said.textContent = `saved as ${root.dataset.stem}.${suffix}`;
  };
  buttons.html.addEventListener("click", () => save("html", "text/html", asPage()));
  buttons.json.addEventListener("click", () => save("json", "application/json", asJson()));
  buttons.txt.addEventListener("click", () => save("txt", "text/plain", asText()));
  buttons.srt.addEventListener("click", () => save("srt", "application/x-subrip", asSubtitles()));
  addEventListener("beforeunload", (event) => {
    if (isChanged) event.preventDefault();
  });

  drawPeople();
  draw();
})();
