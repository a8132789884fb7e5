"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const written = (parent, tag, text = "", classes = "") => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (classes) node.className = classes;
    parent.append(node);
    return node;
  };
  const button = (parent, text, act, classes = "") => {
    const node = written(parent, "button", text, classes);
    node.type = "button";
    if (act) node.addEventListener("click", act);
    return node;
  };
  const strength = (value, peak) => (peak > 0 ? Math.min(1, Math.abs(value) / peak) : 0);
  const coloured = (value, peak, [raises, lowers] = ["for", "against"]) => {
    const share = strength(value, peak);
    return share < 0.01 ? "" : `rgba(var(--${value > 0 ? raises : lowers}), ${(0.85 * share).toFixed(3)})`;
  };
  const paint = (node, value, peak, palette) => {
    node.style.backgroundColor = coloured(value, peak, palette);
    node.style.color = strength(value, peak) > 0.62 ? "#fff" : "";
  };
  const plain = (value) => (value === 0 ? "0" : (Math.abs(value) >= 0.001 ? value.toFixed(4) : value.toExponential(1)).replaceAll("-", "−"));
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const bounded = (place, count) => Math.min(count - 1, Math.max(0, place));
  const steps = (within) => {
    const rtl = getComputedStyle(within).direction === "rtl" ? -1 : 1;
    return { ArrowLeft: -rtl, ArrowRight: rtl, ArrowUp: -1, ArrowDown: 1 };
  };
  const visible = (text) => text.replaceAll("\n", "↵") || "␣";
  const bar = (node, value, most) => {
    node.style.width = `${most > 0 ? (100 * Math.abs(value)) / most : 0}%`;
    node.style.backgroundColor = `rgba(var(--${value >= 0 ? "for" : "against"}), 0.75)`;
  };

  // An input: its tokens or patches on their colours, and from whom each takes and to whom it gives.
  const shownInput = (view) => {
    const home = element(view.element);
    const count = view.tokens.length;
    const now = { method: 0, target: view.target, variant: 0, layer: -1, head: -1, direction: "from", pinned: -1, hovered: -1 };
    const influence = view.influence;
    const places = new Map((view.picture ? view.picture.tokens : []).map((token, place) => [token, place]));
    const nodes = new Array(count).fill(null);
    const refreshers = [];

    // numbers
    const decoded = new Map();
    const matrices = (variant, target) => {
      const key = `${variant} ${target}`;
      if (!decoded.has(key)) {
        const of = influence.variants[variant].of;
        const { data: text, scales } = of[Math.min(target, of.length - 1)]; // attention is the same for all classes
        const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
        decoded.set(key, { numbers: new Int16Array(bytes.buffer), scales });
      }
      return decoded.get(key);
    };
    const means = new Map();
    const matrix = (variant = now.variant, target = now.target, layer = now.layer, head = now.head) => {
      const key = [variant, target, layer, head].join();
      if (!means.has(key)) {
        if (means.size > 400) means.clear();
        const rectifies = influence.variants[variant].rectifies;
        const { numbers, scales } = matrices(rectifies ?? variant, target);
        const counted = rectifies === undefined ? (value) => value : (value) => Math.max(0, value);
        const mean = new Float64Array(count * count);
        const chosen = [];
        for (let one = 0; one < influence.layers.length; one += 1) {
          for (let other = 0; other < influence.heads; other += 1) {
            if ((layer < 0 || layer === one) && (head < 0 || head === other)) chosen.push(one * influence.heads + other);
          }
        }
        chosen.forEach((number) => {
          const scale = scales[number] / chosen.length;
          const start = number * count * count;
          for (let place = 0; place < mean.length; place += 1) mean[place] += counted(numbers[start + place]) * scale;
        });
        means.set(key, mean);
      }
      return means.get(key);
    };
    const row = (token) => Array.from(matrix().subarray(token * count, (token + 1) * count));
    const column = (token) => Array.from({ length: count }, (_, query) => matrix()[query * count + token]);
    const sums = () => {
      const all = new Array(count).fill(0);
      matrix().forEach((value, place) => { all[place % count] += value; });
      return all;
    };
    const chosen = () => (now.hovered >= 0 ? now.hovered : now.pinned);
    const values = () => {
      if (influence && chosen() >= 0) return now.direction === "from" ? row(chosen()) : column(chosen());
      if (influence && (now.layer >= 0 || now.head >= 0)) return sums();
      return view.methods[now.method].values[now.target];
    };

    // words
    const name = (token) => {
      if (!places.has(token)) return `“${visible(view.tokens[token].trim())}”`;
      const [down, across] = [Math.floor(places.get(token) / view.picture.columns), places.get(token) % view.picture.columns];
      return `patch ${down + 1}, ${across + 1}`;
    };
    const where = () => {
      const layer = now.layer < 0 ? "mean of all layers" : `layer ${influence.layers[now.layer]}`;
      const head = influence.heads === 1 ? "" : now.head < 0 ? " and heads" : `, head ${now.head}`;
      return `${layer}${head}; ${influence.variants[now.variant].name}`;
    };
    const target = () => view.classes[now.target];
    const said = () => {
      const token = chosen();
      if (influence && token >= 0) {
        const verb = now.direction === "from" ? "takes from" : "gives to";
        return `What ${name(token)} ${verb} each token (${where()})`;
      }
      if (influence && (now.layer >= 0 || now.head >= 0)) return `What all tokens take from each (${where()})`;
      const method = view.methods[now.method];
      const own = token < 0 ? "" : `${name(token)}: ${plain(method.values[now.target][token])}. `;
      return `${own}${method.name}${method.what ? `: ${method.what}` : ""}`;
    };

    // parts
    const choice = (parent, title, options, key, changed) => {
      if (options.length < 2) return;
      const box = written(parent, "div", "", "choice");
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", title);
      written(box, "span", title);
      if (options.length > 4) {
        const list = written(box, "select");
        list.setAttribute("aria-label", title);
        options.forEach(([text, value]) => { const one = written(list, "option", text); one.value = String(value); });
        list.addEventListener("change", () => { now[key] = JSON.parse(list.value); changed(); });
        refreshers.push(() => { list.value = String(now[key]); });
        return;
      }
      const made = options.map(([text, value]) => [button(box, text, () => { now[key] = value; changed(); }), value]);
      refreshers.push(() => made.forEach(([node, value]) => node.setAttribute("aria-pressed", String(now[key] === value))));
    };
    const tools = written(home, "div", "", "tools");
    const redraw = () => { show(); overview.draw(); };
    choice(tools, "class", view.classes.map((text, place) => [text, place]), "target", redraw);
    choice(tools, view.of, view.methods.map((method, place) => [method.name, place]), "method", () => { now.layer = now.head = -1; redraw(); });

    const sight = written(home, "div", "", "sight");
    const patch = (parent, place, tag) => {
      const { rows, columns } = view.picture;
      const node = written(parent, tag, "", "patch");
      Object.assign(node.style, {
        left: `${(100 * (place % columns)) / columns}%`, top: `${(100 * Math.floor(place / columns)) / rows}%`,
        width: `${100 / columns}%`, height: `${100 / rows}%`,
      });
      return node;
    };
    const framed = (parent, classes) => {
      const frame = written(parent, "div", "", `picture ${view.picture.crisp ? "crisp" : ""} ${classes}`);
      const image = written(frame, "img");
      image.src = view.picture.source;
      image.alt = view.picture.name;
      return frame;
    };
    const pictured = (parent, classes) => {
      const { left, top, width, height } = view.picture;
      const frame = framed(parent, `dim ${classes}`);
      const layer = written(frame, "div", "", "patches");
      Object.assign(layer.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%` });
      return layer;
    };
    const pickable = (node, token) => {
      node.setAttribute("role", "option");
      node.dataset.token = String(token);
      node.tabIndex = -1;
      nodes[token] = node;
    };
    const listbox = (node, label) => {
      node.setAttribute("role", "listbox");
      node.setAttribute("aria-label", label);
    };
    if (view.picture) {
      framed(sight, "whole");
      const layer = pictured(sight, "");
      listbox(layer, "Patches");
      view.picture.tokens.forEach((token, place) => pickable(patch(layer, place, "span"), token));
    }
    const marks = view.picture && !influence ? view.special : []; // an image's, from which nothing is to be seen
    const inText = view.tokens.map((_, token) => token).filter((token) => !places.has(token) && !marks[token]);
    const textOf = (parent, make) => {
      inText.forEach((token) => {
        const text = view.tokens[token];
        const start = text.length - text.trimStart().length;
        if (start) parent.append(text.slice(0, start));
        make(token, start < text.length ? text.slice(start) : "");
      });
    };
    if (inText.length) {
      const text = written(sight, "div", "", "tokens text");
      text.dir = "auto";
      if (!view.picture || inText.length > 3) text.style.flex = "1 1 18rem";
      listbox(text, "Tokens");
      textOf(text, (token, own) => {
        pickable(written(text, "span", visible(own), `pick ${view.special[token] ? "special" : ""}`), token);
        const breaks = own.split("\n").length - 1;
        if (breaks) text.append("\n".repeat(breaks));
      });
    }
    const status = written(home, "p", "", "note said");
    status.setAttribute("role", "status");
    const key = written(home, "div", "", "key");
    const [low, , high] = [written(key, "bdi"), written(key, "i"), written(key, "bdi")];

    // influence
    const overview = { draw: () => {} };
    if (influence) {
      const looks = written(home, "div", "", "tools");
      choice(looks, "a token", [["takes from", "from"], ["gives to", "to"]], "direction", () => show());
      choice(looks, "counts", influence.variants.map((variant, place) => [variant.name, place]), "variant", redraw);
      choice(looks, "layer", [["all", -1], ...influence.layers.map((layer, place) => [layer, place])], "layer", () => show());
      if (influence.heads > 1) choice(looks, "head", [["all", -1], ...Array.from({ length: influence.heads }, (_, head) => [String(head), head])], "head", () => show());
    }
    const lists = written(home, "div", "", "lists");
    const list = (title, numbers) => {
      const box = written(lists, "div");
      written(box, "h3", title);
      const items = written(box, "ol", "", "sources");
      const ranked = numbers.map((value, token) => [value, token]).filter(([value]) => value !== 0);
      ranked.sort(([one], [other]) => Math.abs(other) - Math.abs(one));
      const most = ranked.length ? Math.abs(ranked[0][0]) : 0;
      ranked.slice(0, 8).forEach(([value, token]) => {
        const item = written(items, "li");
        written(item, "span", name(token)).title = name(token);
        bar(written(item, "span", "", "bar"), value, most);
        written(item, "span", plain(value), "value");
        item.addEventListener("click", () => pin(token, true));
      });
      if (!ranked.length) written(items, "li", "none");
    };

    // methods side by side
    const rows = [];
    if (view.methods.length > 1) {
      written(home, "h3", `${view.of[0].toUpperCase()}${view.of.slice(1)}s side by side`);
      const box = written(home, "div", "", `methods ${view.picture ? "maps" : ""}`);
      view.methods.forEach((method, place) => {
        const line = written(box, "div");
        const label = button(line, method.name, () => { now.method = place; now.layer = now.head = now.pinned = -1; redraw(); });
        label.title = method.what;
        const own = new Array(count).fill(null);
        if (view.picture) {
          const layer = pictured(line, "small");
          view.picture.tokens.forEach((token, number) => { own[token] = patch(layer, number, "span"); });
        } else {
          const text = written(line, "div", "", "text");
          text.dir = "auto";
          textOf(text, (token, piece) => { if (!view.special[token]) own[token] = written(text, "span", piece, "token"); });
        }
        rows.push([method, own, label]);
      });
    }
    if (influence && influence.layers.length * influence.heads > 1) {
      const more = written(home, "details");
      written(more, "summary", influence.heads > 1 ? "All layers (down) and heads (across): in each, rows take from columns" : "All layers: in each, rows take from columns");
      const grid = written(more, "div", "", "overview");
      const cells = [];
      if (influence.heads > 1) {
        const names = written(grid, "div", "", "names");
        written(names, "span");
        for (let head = 0; head < influence.heads; head += 1) written(names, "span", String(head));
      }
      influence.layers.forEach((layer, one) => {
        const line = written(grid, "div");
        written(line, "span", layer);
        for (let head = 0; head < influence.heads; head += 1) {
          const own = influence.heads > 1 ? head : -1;
          const cell = button(line, "", () => {
            const again = now.layer === one && now.head === own;
            [now.layer, now.head] = again ? [-1, -1] : [one, own];
            show();
          });
          cell.setAttribute("aria-label", `layer ${layer}${own < 0 ? "" : `, head ${head}`}`);
          cell.title = cell.getAttribute("aria-label");
          const canvas = written(cell, "canvas");
          canvas.width = canvas.height = count;
          cells.push([canvas, one, own]);
          refreshers.push(() => cell.setAttribute("aria-pressed", String(now.layer === one && now.head === own)));
        }
      });
      overview.draw = () => {
        if (!more.open) return;
        const style = getComputedStyle(document.documentElement);
        const [up, down] = ["--for", "--against"].map((colour) => style.getPropertyValue(colour).split(",").map(Number));
        cells.forEach(([canvas, layer, head]) => {
          const own = matrix(now.variant, now.target, layer, head);
          const peak = largest(own);
          const pixels = new ImageData(count, count);
          own.forEach((value, place) => pixels.data.set([...(value > 0 ? up : down), 255 * Math.sqrt(strength(value, peak))], 4 * place));
          canvas.getContext("2d").putImageData(pixels, 0, 0);
        });
      };
      more.addEventListener("toggle", overview.draw);
      more.open = influence.layers.length * influence.heads * count * count <= 3e5;
    }

    const show = () => {
      const shown = values();
      const peak = largest(shown);
      const token = chosen();
      nodes.forEach((node, place) => {
        if (!node) return; // marks around an image, which nothing shows
        paint(node, shown[place], peak);
        node.title = `${name(place)} ${plain(shown[place])}`;
        node.setAttribute("aria-selected", String(place === now.pinned));
        node.classList.toggle("idle", shown[place] === 0);
      });
      status.textContent = said();
      const signed = shown.some((value) => value < 0);
      key.classList.toggle("up", !signed);
      low.textContent = signed ? `${plain(-peak)} against ${target()}` : "0";
      high.textContent = `${plain(peak)}${view.methods[now.method].signed || (influence && token >= 0) ? ` for ${target()}` : ""}`;
      lists.replaceChildren();
      if (influence && token >= 0) {
        list(`${name(token)} takes from`, row(token));
        list(`${name(token)} gives to`, column(token));
      } else {
        list("Strongest", shown);
      }
      rows.forEach(([method, own, label], place) => {
        const numbers = method.values[now.target];
        const most = largest(numbers);
        own.forEach((node, number) => {
          if (!node) return;
          paint(node, numbers[number], most);
          node.title = `${name(number)} ${plain(numbers[number])}`;
        });
        label.setAttribute("aria-pressed", String(place === now.method));
      });
      refreshers.forEach((refresh) => refresh());
    };
    let waiting = false;
    const soon = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; show(); });
    };
    const pin = (token, focus = false) => {
      now.pinned = token;
      now.hovered = -1;
      const reached = nodes[token] || nodes.find((node) => node);
      nodes.forEach((node) => { if (node) node.tabIndex = node === reached ? 0 : -1; });
      if (focus && nodes[token]) { nodes[token].focus({ preventScroll: true }); nodes[token].scrollIntoView({ block: "nearest" }); }
      show();
    };
    const tokenOf = (event) => {
      const node = event.target.closest("[data-token]");
      return node ? Number(node.dataset.token) : -1;
    };
    sight.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "mouse" || tokenOf(event) === now.hovered) return;
      now.hovered = tokenOf(event);
      soon();
    });
    sight.addEventListener("pointerleave", () => { now.hovered = -1; soon(); });
    sight.addEventListener("click", (event) => {
      const token = tokenOf(event);
      if (token >= 0) pin(token === now.pinned ? -1 : token);
    });
    sight.addEventListener("keydown", (event) => {
      const token = nodes.indexOf(document.activeElement);
      if (token < 0) return;
      if (event.key === "Escape") { pin(-1); return; }
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(token, true); return; }
      const across = places.has(token) ? view.picture.columns : 1;
      const step = steps(document.activeElement.parentElement)[event.key];
      if (!step) return;
      event.preventDefault();
      const next = bounded(token + (event.key.endsWith("Up") || event.key.endsWith("Down") ? step * across : step), count);
      if (nodes[next]) pin(next, true);
    });
    pin(-1);
    overview.draw();
  };

  // An answer of a language model: its tokens to click or drag over, its prompt's coloured, a bar for each source.
  const shownResponse = (view) => {
    const picks = [];
    const pieces = [];
    const rows = [];
    let [from, to] = [0, view.response.length];
    let contrast = -1;
    let dragging = false;
    let anchor = 0;
    const everything = () => from === 0 && to === view.response.length;
    const values = () => {
      if (contrast >= 0) return view.contrasts[contrast].values;
      if (everything()) return view.values;
      const sums = new Array(view.values.length).fill(0);
      view.parts.forEach(([start, end], row) => {
        if (start >= from && end <= to) view.map[row].forEach((value, place) => { sums[place] += value; });
      });
      return sums;
    };
    const said = () => {
      if (contrast >= 0) return `${view.contrasts[contrast].name}: a difference of scores`;
      const chosen = view.response.slice(from, to);
      const score = chosen.reduce((sum, token) => sum + token.score, 0);
      if (chosen.length > 1) return `${everything() ? "The whole response" : `${chosen.length} tokens`}: ${view.score} ${score.toFixed(2)}`;
      const [token] = chosen;
      return `“${token.text.trim()}”: ${view.score} ${score.toFixed(2)}, probability ${(100 * token.probability).toFixed(1)} %`;
    };
    const show = () => {
      const now = values();
      const of = (numbers) => numbers.reduce((sum, number) => sum + now[number], 0);
      const shown = pieces.map(([, numbers]) => of(numbers));
      const peak = largest(shown.filter((_, place) => !pieces[place][2]));
      pieces.forEach(([node, numbers], place) => {
        paint(node, shown[place], peak);
        node.title = numbers.length ? plain(shown[place]) : "";
      });
      picks.forEach((node, place) => {
        node.setAttribute("aria-selected", String(contrast < 0 && place >= from && place < to));
        paint(node, now[view.first + place], peak);
      });
      const sums = view.sources.map((source) => of(source.tokens));
      const most = largest(sums);
      const total = sums.reduce((all, sum) => all + Math.abs(sum), 0);
      element("sources").append(...rows.map((row, place) => [row, sums[place]]).sort((one, other) => other[1] - one[1]).map(([row]) => row));
      sums.forEach((sum, place) => {
        const [, length, number, share] = rows[place].children;
        bar(length, sum, most);
        number.textContent = plain(sum);
        share.textContent = total > 0 ? `${Math.round((100 * Math.abs(sum)) / total)} %` : "";
      });
      element("said").textContent = said();
      [...element("tools").children].forEach((node, place) => {
        node.setAttribute("aria-pressed", String(place === 0 ? contrast < 0 && everything() : contrast === place - 1));
      });
    };
    const pick = (start, end) => {
      contrast = -1;
      const partOf = (place) => view.parts.find(([, after]) => place < after);
      [from, to] = [partOf(Math.min(start, end))[0], partOf(Math.max(start, end))[1]];
      show();
    };
    const placeOf = (event) => {
      const node = document.elementFromPoint(event.clientX, event.clientY);
      return picks.indexOf(node && node.closest(".pick"));
    };

    view.prompt.forEach(([text, numbers, what]) => {
      pieces.push([written(element("prompt"), "span", text, `token ${what}`), numbers, what === "template"]);
    });
    view.response.forEach((token, place) => {
      const breaks = token.text.split("\n").length - 1;
      const node = written(element("response"), "span", token.text.replaceAll("\n", "↵"), "pick");
      element("response").append("\n".repeat(breaks));
      node.setAttribute("role", "option");
      node.title = `${view.score} ${token.score.toFixed(2)}, probability ${(100 * token.probability).toFixed(1)} %`;
      node.tabIndex = place ? -1 : 0;
      picks.push(node);
    });
    view.sources.forEach((source) => {
      const row = written(element("sources"), "li");
      rows.push(row);
      written(row, "span", source.text).title = source.text;
      written(row, "span", "", "bar");
      written(row, "span", "", "value");
      written(row, "span", "", "share").title = "of all sources' magnitude";
      row.addEventListener("click", () => {
        const place = view.prompt.findIndex(([, numbers]) => numbers.some((number) => source.tokens.includes(number)));
        if (place >= 0) pieces[place][0].scrollIntoView({ block: "nearest", behavior: "smooth" });
      });
    });
    button(element("tools"), "Whole response", () => pick(0, view.response.length - 1));
    view.contrasts.forEach((one, place) => button(element("tools"), one.name, () => { contrast = place; show(); }));

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
      if (event.key === "Escape") { pick(0, view.response.length - 1); return; }
      if (event.key === "Enter" || event.key === " ") { anchor = place; pick(place, place); event.preventDefault(); return; }
      const step = steps(response)[event.key];
      if (!step) return;
      event.preventDefault();
      const next = bounded(place + step, picks.length);
      if (!event.shiftKey) anchor = next;
      picks.forEach((node, number) => { node.tabIndex = number === next ? 0 : -1; });
      picks[next].focus();
      pick(anchor, next);
    });
    show();
  };

  // Tables: numbers on colours or bars.
  document.querySelectorAll("[data-shade]").forEach((cell) => {
    paint(cell, Number(cell.dataset.shade), 1, cell.dataset.palette ? ["agrees", "opposes"] : undefined);
  });
  document.querySelectorAll("[data-share]").forEach((cell) => cell.style.setProperty("--share", cell.dataset.share));
  if (window.parent !== window) document.body.classList.add("framed");
  data.views.forEach((view) => (view.kind === "response" ? shownResponse : shownInput)(view));
})();
