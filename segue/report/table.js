"use strict";
// Sorts, searches and pages the rows, which are JSON next to the table. A row: a value for each column, then source (or
// null), reference, hypothesis, and a sign for each pair of their words. Words end in a space, or in "\n" if the text
// has no space there.
(() => {
  const PAGE = 50;
  const root = document.getElementById("all-examples");
  const [search, head, body, count] = ["input", "thead tr", "tbody", ".count"].map((each) => root.querySelector(each));
  const [previous, next] = root.querySelectorAll(".tools button");
  const { columns, order, rows } = JSON.parse(root.querySelector("script").textContent);
  const texts = columns.length;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const written = (text) => text.replaceAll("\n", "");
  let sorted = { column: 0, order };
  let found = rows;
  let first = 0;
  let haystacks = null;

  const element = (name, attributes, ...content) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  };
  const number = (value, digits) => value.toLocaleString("en", digits);
  const shown = {
    rate: (value) => `${(100 * value).toFixed(1)}%`,
    score: (value) => value.toFixed(1),
    number: (value) => number(value, { maximumFractionDigits: 1 }),
    name: (value) => value,
  };

  // One side of the comparison: "+" is an inserted word, "-" a deleted one, "~" a substitution.
  const side = (name, text, signs, missing, kinds) => {
    const line = element("span", { dir: "auto" });
    const words = text.match(/[^ \n]+[ \n]?/g) || [];
    let at = 0;
    for (const sign of signs) {
      if (sign === missing) continue;
      const word = words[at++] || "";
      if (sign === "=") {
        line.append(written(word));
      } else {
        line.append(element("mark", { class: kinds[sign] }, word.trimEnd()), word.endsWith(" ") ? " " : "");
      }
    }
    if (!words.length) line.append("\u2205");
    return element("p", {}, element("small", {}, name), line);
  };

  const drawn = (row) => {
    const cells = columns.map(({ kind }, at) =>
      kind === "name"
        ? element("td", { class: "name", dir: "auto" }, row[at])
        : element("td", { class: "number" }, shown[kind](row[at])),
    );
    const [source, reference, hypothesis, signs] = row.slice(texts);
    const lines = [
      side("reference", reference, signs, "+", { "-": "left-out", "~": "other" }),
      side("hypothesis", hypothesis, signs, "-", { "+": "added", "~": "other" }),
    ];
    if (source !== null) {
      lines.unshift(element("p", {}, element("small", {}, "source"), element("span", { dir: "auto" }, source)));
    }
    return element("tr", {}, ...cells, element("td", {}, ...lines));
  };

  const draw = () => {
    body.replaceChildren(...found.slice(first, first + PAGE).map(drawn));
    const last = Math.min(first + PAGE, found.length);
    const of = found.length === rows.length ? "" : ` (of ${number(rows.length)})`;
    count.textContent = found.length
      ? `${number(first + 1)}\u2013${number(last)} of ${number(found.length)}${of}`
      : `nothing found${of}`;
    previous.disabled = first === 0;
    next.disabled = last === found.length;
    columns.forEach((_, at) => {
      const cell = head.children[at];
      if (at === sorted.column) cell.setAttribute("aria-sort", sorted.order);
      else cell.removeAttribute("aria-sort");
    });
  };

  const update = () => {
    const wanted = search.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    if (wanted.length && haystacks === null) {
      haystacks = new Map(
        rows.map((row) => {
          const names = row.filter((_, at) => at < texts && columns[at].kind === "name");
          const [source, reference, hypothesis] = row.slice(texts);
          const all = [...names, source || "", written(reference), written(hypothesis)];
          return [row, all.join("\n").normalize("NFC").toLowerCase()];
        }),
      );
    }
    found = wanted.length ? rows.filter((row) => wanted.every((each) => haystacks.get(row).includes(each))) : [...rows];
    const { column } = sorted;
    const sign = sorted.order === "ascending" ? 1 : -1;
    const compare =
      columns[column].kind === "name"
        ? (one, other) => collator.compare(one[column], other[column])
        : (one, other) => one[column] - other[column];
    found.sort((one, other) => sign * compare(one, other));
    first = 0;
    draw();
  };

  columns.forEach(({ name, kind }, at) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      const same = sorted.column === at;
      const start = at === 0 ? order : "ascending";
      const turned = sorted.order === "ascending" ? "descending" : "ascending";
      sorted = { column: at, order: same ? turned : start };
      update();
    });
    head.append(element("th", kind === "name" ? {} : { class: "number" }, button));
  });
  head.append(element("th", {}, "texts"));
  search.addEventListener("input", update);
  const turn = (pages) => {
    first += pages * PAGE;
    draw();
    root.scrollIntoView();
  };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  update();
})();
