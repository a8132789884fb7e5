"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const picks = [];
  const pieces = [];
  const rows = [];
  let [from, to] = [0, data.response.length];
  let contrast = -1;
  let dragging = false;
  let anchor = 0;

  const written = (parent, tag, text, classes) => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (classes) node.className = classes;
    parent.append(node);
    return node;
  };
  const coloured = (value, peak) => {
    const strength = peak > 0 ? Math.min(1, Math.abs(value) / peak) : 0;
    return strength < 0.01 ? "" : `rgba(var(--${value > 0 ? "for" : "against"}), ${(0.85 * strength).toFixed(3)})`;
  };
  const plain = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? value.toFixed(4) : value.toExponential(1));
  const everything = () => from === 0 && to === data.response.length;

  const values = () => {
    if (contrast >= 0) return data.contrasts[contrast].values;
    if (everything()) return data.values;
    const sums = new Array(data.values.length).fill(0);
    data.parts.forEach(([start, end], row) => {
      if (start >= from && end <= to) data.map[row].forEach((value, place) => { sums[place] += value; });
    });
    return sums;
  };
  const said = () => {
    if (contrast >= 0) return `${data.contrasts[contrast].name}: a difference of scores`;
    const chosen = data.response.slice(from, to);
    const score = chosen.reduce((sum, token) => sum + token.score, 0);
    if (chosen.length > 1) return `${everything() ? "The whole response" : `${chosen.length} tokens`}: ${data.score} ${score.toFixed(2)}`;
    const [token] = chosen;
    return `“${token.text}”: ${data.score} ${score.toFixed(2)}, probability ${(100 * token.probability).toFixed(1)} %`;
  };
  const show = () => {
    const now = values();
    const of = (numbers) => numbers.reduce((sum, number) => sum + now[number], 0);
    const shown = pieces.map(([, numbers]) => of(numbers));
    const peak = Math.max(...shown.filter((_, place) => !pieces[place][2]).map(Math.abs));
    pieces.forEach(([node, numbers], place) => {
      node.style.backgroundColor = coloured(shown[place], peak);
      node.title = numbers.length ? plain(shown[place]) : "";
    });
    picks.forEach((node, place) => {
      node.setAttribute("aria-selected", String(contrast < 0 && place >= from && place < to));
      node.style.backgroundColor = coloured(now[data.first + place], peak);
    });
    const sums = data.sources.map((source) => of(source.tokens));
    const most = Math.max(...sums.map(Math.abs));
    const total = sums.reduce((all, sum) => all + Math.abs(sum), 0);
    element("sources").append(...rows.map((row, place) => [row, sums[place]]).sort((one, other) => other[1] - one[1]).map(([row]) => row));
    sums.forEach((sum, place) => {
      const [, bar, number, share] = rows[place].children;
      bar.style.width = `${most > 0 ? (100 * Math.abs(sum)) / most : 0}%`;
      bar.style.backgroundColor = `rgba(var(--${sum >= 0 ? "for" : "against"}), 0.75)`;
      number.textContent = plain(sum);
      share.textContent = total > 0 ? `${Math.round((100 * Math.abs(sum)) / total)} %` : "";
    });
    element("said").textContent = said();
    [...element("tools").children].forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === 0 ? contrast < 0 && everything() : contrast === place - 1));
    });
  };
  const pick = (start, end) => {
    contrast = -1;
    const partOf = (place) => data.parts.find(([, after]) => place < after);
    [from, to] = [partOf(Math.min(start, end))[0], partOf(Math.max(start, end))[1]];
    show();
  };
  const placeOf = (event) => {
    const node = document.elementFromPoint(event.clientX, event.clientY);
    return picks.indexOf(node && node.closest(".pick"));
  };

  data.prompt.forEach(([text, numbers, what]) => {
    pieces.push([written(element("prompt"), "span", text, `token ${what}`), numbers, what === "template"]);
  });
  data.response.forEach((token, place) => {
    const breaks = token.text.split("\n").length - 1; // a button does not break the line that it is in
    const node = written(element("response"), "button", token.text.replaceAll("\n", "↵"), "pick");
    element("response").append("\n".repeat(breaks));
    node.type = "button";
    node.setAttribute("role", "option");
    node.title = `${data.score} ${token.score.toFixed(2)}, probability ${(100 * token.probability).toFixed(1)} %`;
    node.tabIndex = place ? -1 : 0;
    picks.push(node);
  });
  data.sources.forEach((source) => {
    const row = written(element("sources"), "li", "", "");
    rows.push(row);
    written(row, "span", source.text).title = source.text;
    written(row, "span", "", "bar");
    written(row, "span", "", "value");
    written(row, "span", "", "share").title = "of all sources' magnitude";
    row.addEventListener("click", () => {
      const place = data.prompt.findIndex(([, numbers]) => numbers.some((number) => source.tokens.includes(number)));
      if (place >= 0) pieces[place][0].scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
  });
  written(element("tools"), "button", "Whole response").addEventListener("click", () => pick(0, data.response.length - 1));
  data.contrasts.forEach((one, place) => {
    written(element("tools"), "button", one.name).addEventListener("click", () => { contrast = place; show(); });
  });

  const response = element("response");
  response.addEventListener("pointerdown", (event) => {
    const place = placeOf(event);
    if (place < 0) return;
    dragging = true;
    if (!event.shiftKey) anchor = place;
    pick(anchor, place);
  });
  response.addEventListener("pointermove", (event) => {
    const place = dragging ? placeOf(event) : -1;
    if (place >= 0) pick(anchor, place);
  });
  ["pointerup", "pointercancel"].forEach((kind) => window.addEventListener(kind, () => { dragging = false; }));
  response.addEventListener("keydown", (event) => {
    const place = picks.indexOf(document.activeElement);
    if (place < 0) return;
    if (event.key === "Escape") { pick(0, data.response.length - 1); return; }
    if (event.key === "Enter" || event.key === " ") { anchor = place; pick(place, place); event.preventDefault(); return; }
    const rtl = getComputedStyle(response).direction === "rtl" ? -1 : 1;
    const step = { ArrowLeft: -rtl, ArrowRight: rtl, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.min(picks.length - 1, Math.max(0, place + step));
    if (!event.shiftKey) anchor = next;
    picks.forEach((node, number) => { node.tabIndex = number === next ? 0 : -1; });
    picks[next].focus();
    pick(anchor, next);
  });
  show();
})();
