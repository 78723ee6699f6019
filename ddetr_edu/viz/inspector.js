// One image, and where the queries of each decoder layer sample in it.
//
// inspect(root, data, ...) builds everything inside `root` from the data of inspector_page.py. The
// same file serves the page of `ddetr inspect --html` and, by its last lines, the widget of the
// notebook. All text is set as text, never as markup: names and titles come from unknown files.

const SVG = "http://www.w3.org/2000/svg";
const PLASMA = ["#0d0887", "#4c02a1", "#7e03a8", "#a82296", "#cb4679", "#e56b5d", "#f89441", "#fdc328",
                "#f0f921"]; // grows brighter all the way, so it reads in greyscale too
const SHAPES = [ // of a dot by its level, each about as large as a circle of radius 1
  "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z",
  "M-.9,-.9H.9V.9H-.9Z",
  "M0,-1.3L1.3,0L0,1.3L-1.3,0Z",
  "M0,-1.25L1.2,.85H-1.2Z",
  "M0,1.25L1.2,-.85H-1.2Z",
];

// make("p", { class: "tip", onclick: f }, "text", child): an element of HTML, or of SVG in `draw`.
function make(tag, attributes = {}, ...children) {
  return finish(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return finish(document.createElementNS(SVG, tag), attributes, children);
}

function finish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function colour(share) {
  return PLASMA[Math.round(Math.min(1, Math.max(0, share)) * (PLASMA.length - 1))];
}

// The numbers of one packed array, back in their own units.
function unpack({ shape, kind, low, high, bytes }) {
  const raw = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0)).buffer;
  if (kind === "float32") return { shape, values: new Float32Array(raw) };
  const steps = kind === "uint8" ? new Uint8Array(raw) : new Uint16Array(raw);
  const step = (high - low) / (kind === "uint8" ? 255 : 65535);
  return { shape, values: Float32Array.from(steps, (s) => low + s * step) };
}

// A packed trace as functions of (query, layer); locations in pixels of the image.
function unpackTrace(packed, width, height) {
  const arrays = Object.fromEntries(Object.entries(packed).map(([k, v]) => [k, unpack(v)]));
  const [, layers, heads, levels, perLevel] = arrays.weights.shape;
  const at = (name, query, layer, size) => {
    const start = (query * layers + layer) * size;
    return arrays[name].values.subarray(start, start + size);
  };
  const rectangle = ([cx, cy, w, h]) => ({
    x: (cx - w / 2) * width, y: (cy - h / 2) * height, width: w * width, height: h * height,
  });
  return {
    layers, heads, levels,
    score: (query, layer) => at("scores", query, layer, 1)[0],
    label: (query, layer) => Math.round(at("classes", query, layer, 1)[0]),
    box: (query, layer) => rectangle(at("boxes", query, layer, 4)),
    reference(query, layer) {
      const [x, y, w, h] = at("references", query, layer, 4);
      return { x: x * width, y: y * height, box: w * h > 0 ? rectangle([x, y, w, h]) : null };
    },
    points(query, layer) {
      const count = heads * levels * perLevel;
      const weights = at("weights", query, layer, count);
      const norms = at("value_norms", query, layer, count);
      const locations = at("locations", query, layer, 2 * count);
      return Array.from(weights, (weight, i) => {
        const [x, y] = [locations[2 * i], locations[2 * i + 1]];
        return {
          head: Math.floor(i / (levels * perLevel)),
          level: Math.floor(i / perLevel) % levels,
          number: i % perLevel,
          weight, norm: norms[i], x: x * width, y: y * height,
          outside: x < 0 || x > 1 || y < 0 || y > 1,
        };
      });
    },
  };
}

// The attention weights of points as an image: the weight of a point is shared out over the four
// cells of its level that it is interpolated from, and spread evenly over each cell. The sum is the
// weight inside the image.
function splat(points, shapes, columns, rows, width, height) {
  const mass = new Float32Array(columns * rows);
  for (const { x, y, level, weight } of points) {
    const [high, wide] = shapes[level];
    const u = (x / width) * wide - 0.5, v = (y / height) * high - 0.5; // centres at whole numbers
    for (const row of [Math.floor(v), Math.floor(v) + 1]) {
      for (const column of [Math.floor(u), Math.floor(u) + 1]) {
        if (row < 0 || row >= high || column < 0 || column >= wide) continue; // zeros
        const share = weight * (1 - Math.abs(u - column)) * (1 - Math.abs(v - row));
        const from = [Math.round((column / wide) * columns), Math.round((row / high) * rows)];
        const to = [Math.round(((column + 1) / wide) * columns),
                    Math.round(((row + 1) / high) * rows)];
        to[0] = Math.max(to[0], from[0] + 1);
        to[1] = Math.max(to[1], from[1] + 1);
        const each = share / ((to[0] - from[0]) * (to[1] - from[1]));
        for (let r = from[1]; r < to[1]; r++) {
          for (let c = from[0]; c < to[0]; c++) mass[r * columns + c] += each;
        }
      }
    }
  }
  return mass;
}

// root: the element to fill; data: of inspector_page.py
// keys: the element that listens to the keyboard; root by default
// move: called with { id, query, x, y }, a query's number and fractions of the image, when its
//   initial reference is dragged there; the answer, { id, trace } with the packed trace of that
//   query, is passed to the returned `moved`
//
// What can have the focus is made once and then only changed: an element that is replaced takes the
// focus, and with it the keyboard, away.
function inspect(root, data, { keys = root, move = null } = {}) {
  const { width, height, shapes, names, queries } = data;
  const trace = unpackTrace(data.trace, width, height);
  const { layers, heads, levels } = trace;
  const last = layers - 1;
  const elsewhere = new Map(); // query -> what it does from where it was dragged to
  const now = (query) => (elsewhere.has(query) ? [elsewhere.get(query), 0] : [trace, query]);
  const score = (query, layer = last) => now(query)[0].score(now(query)[1], layer);
  const name = (query, layer = last) => {
    const label = now(query)[0].label(now(query)[1], layer);
    return names[label] ?? `class ${label}`;
  };
  const chosen = { query: data.first, layer: last, level: -1, head: -1, value: false, heat: false,
                   threshold: data.threshold };
  const count = (p) => (chosen.value ? p.weight * p.norm : p.weight);

  // The frame around the image leaves room for points outside it, as far as most of them go.
  const reach = (size, from) => {
    const beyond = [];
    for (let query = 0; query < Math.min(20, queries.length); query++) {
      for (const p of trace.points(query, last)) beyond.push(Math.max(-p[from], p[from] - size));
    }
    beyond.sort((a, b) => a - b);
    const farthest = beyond[Math.floor(0.98 * (beyond.length - 1))] || 0;
    return Math.min(0.25 * size, Math.max(0.03 * Math.max(width, height), 1.1 * farthest));
  };
  const margin = { x: reach(width, "x"), y: reach(height, "y") };
  const view = { x: -margin.x, y: -margin.y, width: width + 2 * margin.x,
                 height: height + 2 * margin.y };
  const unit = Math.max(view.width, view.height * 1.4) / 100; // sizes grow with the image

  root.replaceChildren();
  root.classList.add("inspector");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab uses the same keys itself
  const [headline, summary] = [make("h1", { "aria-live": "polite" }), make("p")];
  const photo = draw("image", { class: "photo", href: data.image, width, height,
                                preserveAspectRatio: "none" });
  const heat = draw("image", { width, height, preserveAspectRatio: "none" });
  const drawing = draw("g");
  const svg = draw("svg", { class: "image", role: "img", viewBox:
                            `${view.x} ${view.y} ${view.width} ${view.height}` },
                   draw("rect", { class: "frame", width, height }), photo, heat, drawing);
  const tip = make("div", { class: "tip", hidden: "" });
  const legend = make("div", { class: "legend" });
  const list = make("div", { class: "list" });
  const bars = { level: make("div"), head: make("div") };
  const threshold = make("input", { type: "range", min: 0, max: 1, step: 0.001,
                                    "aria-label": "score threshold" });
  const layer = make("input", { type: "range", min: 0, max: last, step: 1,
                                "aria-label": "decoder layer" });
  const readouts = { threshold: make("output"), layer: make("output") };
  const value = make("input", { type: "checkbox" });
  const heatmap = make("input", { type: "checkbox" });
  const back = make("button", { class: "plain", hidden: "" });
  root.append(
    headline, summary,
    make("div", { class: "columns" },
      make("div", {}, make("div", { class: "stage" }, svg, tip), legend),
      make("div", {},
        make("h2", {}, "Detections"), list,
        make("label", { class: "choice" }, "score threshold", threshold, readouts.threshold),
        make("h2", {}, "Decoder layer"),
        make("label", { class: "choice" }, layer, readouts.layer),
        make("h2", {}, "Attention weight by level (height × width)"), bars.level,
        make("h2", {}, "Attention weight by head and level"), bars.head,
        make("label", { class: "choice" }, value, "multiply weights by the norm of the value"),
        make("label", { class: "choice" }, heatmap, "show the attention heatmap"),
        make("div", { class: "choice" }, back))),
    make("p", {}, "Keys: ↑ ↓ detection · ← → layer · L level · H head · V value norm · R heatmap"));
  if (data.all_queries > queries.length) {
    root.append(make("p", {}, `This page holds the ${queries.length} best of the model's `
      + `${data.all_queries} queries.`));
  }

  // The points of the chosen query on the chosen level and head.
  function visible() {
    const [its, query] = now(chosen.query);
    return its.points(query, chosen.layer).filter((p) =>
      (chosen.level < 0 || p.level === chosen.level) && (chosen.head < 0 || p.head === chosen.head));
  }

  // The queries in the list: those above the threshold, and always the chosen and the dragged ones.
  function listed() {
    return queries.map((_, query) => query).filter((query) => query === chosen.query
      || elsewhere.has(query) || score(query) >= chosen.threshold);
  }

  function rectangle(box, kind, wide) {
    return [draw("rect", { ...box, class: `under ${wide}` }), draw("rect", { ...box, class: kind })];
  }

  // The size of one pixel of the screen in units of the image; 0 while the image is not laid out.
  function pixel() {
    return 1 / (svg.getScreenCTM()?.a || Infinity);
  }

  function drawImage() {
    const [its, query] = now(chosen.query);
    const reference = its.reference(query, chosen.layer);
    const box = its.box(query, chosen.layer);
    drawing.replaceChildren();
    const labels = []; // a name that would cover another one is left out; the list has it
    const size = Math.max(1.9 * unit, 11 * pixel()); // of letters; 11 px can be read on a phone, too
    const addLabel = (text, at) => {
      const widths = Array.from(text, (letter) => (letter >= "\u2e80" ? 1 : 0.62)); // Chinese: wide
      const [wide, high] = [size * widths.reduce((a, b) => a + b, 0.3), 1.1 * size];
      const x = Math.min(at.x, view.x + view.width - wide);
      const y = Math.max(at.y - 0.26 * size, 0.95 * size);
      if (labels.some((w) => Math.abs(w.y - y) < high && x < w.x + w.wide && w.x < x + wide)) return;
      const node = draw("text", { class: "label", x, y, "font-size": size,
                                  "stroke-width": 0.26 * size }, text);
      labels.push({ x, y, wide, node });
    };
    addLabel(`${name(chosen.query, chosen.layer)} `
      + score(chosen.query, chosen.layer).toFixed(2), box);
    for (const some of listed()) {
      if (some === chosen.query) continue;
      const final = now(some)[0].box(now(some)[1], last);
      drawing.append(...rectangle(final, "box", ""));
      addLabel(name(some), final);
    }
    if (reference.box) drawing.append(...rectangle(reference.box, "entering", "wide"));
    drawing.append(...rectangle(box, "leaving", "wide"));

    const points = visible().sort((a, b) => count(a) - count(b)); // heavy points on top
    const largest = Math.max(1e-9, ...points.map(count));
    const clamp = (value, low, size) =>
      Math.min(low + size - 1.5 * unit, Math.max(low + 1.5 * unit, value));
    for (const p of points) {
      const share = count(p) / largest;
      const [x, y] = [clamp(p.x, view.x, view.width), clamp(p.y, view.y, view.height)];
      p.dot = draw("path", {
        class: p.outside ? "dot outside" : "dot", d: SHAPES[p.level % SHAPES.length],
        transform: `translate(${x} ${y}) scale(${unit * (0.3 + 0.75 * Math.sqrt(share))})`,
        ...(p.outside ? {} : { fill: colour(share) }),
        "data-head": p.head, "data-level": p.level, "data-point": p.number,
      });
      Object.assign(p, { shownX: x, shownY: y });
      drawing.append(p.dot);
    }
    const { x, y } = reference;
    const arms = `M${x - 1.6 * unit},${y}H${x + 1.6 * unit}M${x},${y - 1.6 * unit}V${y + 1.6 * unit}`;
    drawing.append(draw("path", { class: "cross under", d: arms }),
                   draw("path", { class: "cross", d: arms }));
    if (move) {
      const start = its.reference(query, 0);
      drawing.append(draw("circle", { class: "start", cx: start.x, cy: start.y, r: 2.6 * unit }));
    }
    drawing.append(...labels.map((w) => w.node).reverse());
    svg.classList.toggle("paler", chosen.heat);
    drawn = points;
    drawHeat(points);
  }
  let drawn = [];

  function drawHeat(points) {
    heat.removeAttribute("href");
    if (!chosen.heat) return;
    const columns = Math.min(320, Math.round(width));
    const rows = Math.max(1, Math.round((columns * height) / width));
    const weighted = points.map((p) => ({ ...p, weight: count(p) }));
    const mass = splat(weighted, shapes, columns, rows, width, height);
    const largest = Math.max(1e-12, ...mass);
    const canvas = make("canvas", { width: columns, height: rows });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    mass.forEach((m, i) => {
      const share = Math.sqrt(m / largest); // the square root shows small weights, too
      const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour(share).slice(k, k + 2), 16));
      pixels.data.set([r, g, b, m > 0 ? 70 + 150 * share : 0], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
    heat.setAttribute("href", canvas.toDataURL());
  }

  // One row of a panel: a label, a bar of parts, and a number; a click or Enter chooses it.
  function addRow(panel, attributes, label, onclick) {
    const [bar, note] = [make("span", { class: "bar" }), make("span")];
    const button = make("button", { class: "row", ...attributes, onclick }, label, bar, note);
    panel.append(button);
    return (isChosen, parts, text) => {
      button.classList.toggle("chosen", isChosen);
      button.setAttribute("aria-pressed", isChosen);
      bar.replaceChildren(...parts.map(([share, off], level) => make("i", {
        style: `width:${100 * share}%;opacity:${1 - (0.7 * level) / levels}`,
        class: off ? "off" : "",
      })));
      note.textContent = text;
    };
  }

  // The rows of the levels or heads from 0, after one (-1) for all of them.
  function addRows(panel, labels) {
    return labels.map((label, index) => addRow(bars[panel], { [`data-${panel}`]: index - 1 }, label,
      () => { chosen[panel] = index - 1; update(); }));
  }

  const drawLevel = addRows("level", [make("span", {}, "all levels"),
    ...shapes.map(([high, wide], level) => make("span", {
      title: `level ${level}: ${high} × ${wide} cells (height × width)`,
    }, draw("svg", { class: "mark", viewBox: "-1.5 -1.5 3 3" },
            draw("path", { d: SHAPES[level % SHAPES.length] })), `${level}: ${high} × ${wide}`))]);
  const drawHead = addRows("head", ["all heads", ...[...Array(heads).keys()].map((h) => `head ${h}`)]
    .map((text) => make("span", {}, text)));
  const queryLabels = queries.map(() => make("span"));
  const drawQuery = queries.map((number, query) => addRow(list, { "data-query": number },
    queryLabels[query], () => choose(query)));

  function drawBars() {
    const [its, query] = now(chosen.query);
    const points = its.points(query, chosen.layer);
    const mass = (head, level) => points
      .filter((p) => (head < 0 || p.head === head) && (level < 0 || p.level === level))
      .reduce((sum, p) => sum + count(p), 0);
    const whole = mass(chosen.head, -1) || 1;
    drawLevel.forEach((drawRow, index) => {
      const share = index ? mass(chosen.head, index - 1) / whole : 1;
      drawRow(chosen.level === index - 1, [[share, false]], percent(share));
    });
    const each = [...Array(heads).keys()].map((head) => mass(head, -1));
    const largest = Math.max(...each) || 1, sum = each.reduce((a, b) => a + b, 0) || 1;
    drawHead.forEach((drawRow, index) => {
      const head = index - 1;
      const parts = [...Array(levels).keys()].map((level) => [
        mass(head, level) / (index ? largest : sum), chosen.level >= 0 && chosen.level !== level]);
      const all = index && !chosen.value ? each[head] || 1 : sum; // weights sum to 1 for each head
      drawRow(chosen.head === head, parts, percent(mass(head, chosen.level) / all));
    });
  }

  function drawList() {
    const shown = new Set(listed());
    queries.forEach((number, query) => {
      list.children[query].hidden = !shown.has(query);
      if (!shown.has(query)) return;
      const text = elsewhere.has(query) ? `${name(query)} (moved)` : name(query);
      queryLabels[query].textContent = text;
      queryLabels[query].title = `query ${number}: ${text}`;
      drawQuery[query](query === chosen.query, [[score(query), false]], score(query).toFixed(3));
    });
    const above = [...shown].filter((query) => score(query) >= chosen.threshold).length;
    readouts.threshold.textContent = `${chosen.threshold.toFixed(3)}: ${above} above`;
  }

  // Scroll the list, not the page, as far as it takes to see the row of the chosen query.
  function reveal() {
    const { offsetTop: top, offsetHeight: height } = list.children[chosen.query];
    list.scrollTop = Math.min(top, Math.max(list.scrollTop, top + height - list.clientHeight));
  }

  function choose(query) {
    chosen.query = query;
    update();
    reveal();
  }

  function drawLegend() {
    const scale = make("span", { class: "scale",
                                 style: `background:linear-gradient(90deg,${PLASMA.join()})` });
    const counted = chosen.value ? "weight × value norm" : "attention weight";
    const largest = Math.max(0, ...drawn.map(count));
    const far = drawn.filter((p) => p.x !== p.shownX || p.y !== p.shownY).length;
    const [its, query] = now(chosen.query);
    const out = drawn.filter((p) => p.outside).reduce((sum, p) => sum + p.weight, 0);
    const all = drawn.reduce((sum, p) => sum + p.weight, 0);
    legend.replaceChildren(
      make("span", {}, "+ reference point"),
      ...(move ? [make("span", {}, "○ initial reference point: drag it")] : []),
      ...(its.reference(query, chosen.layer).box
        ? [make("span", {}, "╌ reference box entering the layer")] : []),
      make("span", {}, "━ predicted box"),
      make("span", {}, "dot: a sampling point, larger and brighter for a higher "
        + `${counted}, from 0 `, scale, ` to ${largest.toPrecision(2)}`),
      make("span", {}, "hollow: outside the image, where zeros are read "
        + `(${percent(out / (all || 1))} of the weight${far ? `; ${far} points are beyond the frame` : ""})`));
  }

  function update() {
    const number = queries[chosen.query];
    headline.textContent = `Query ${number}, decoder layer ${chosen.layer}: ${name(chosen.query)}, `
      + `${score(chosen.query).toFixed(2)}`;
    const path = [...Array(layers).keys()].map((l) => `${name(chosen.query, l)} `
      + `${score(chosen.query, l).toFixed(2)}`);
    summary.textContent = `${data.title} · predictions after layers 0 to ${last}: `
      + path.join(" → ");
    threshold.value = chosen.threshold;
    layer.value = chosen.layer;
    readouts.layer.textContent = `layer ${chosen.layer} of 0–${last}`;
    value.checked = chosen.value;
    heatmap.checked = chosen.heat;
    back.hidden = !elsewhere.has(chosen.query);
    back.textContent = `reset query ${number}`;
    tip.hidden = true;
    drawList();
    drawBars();
    drawImage();
    drawLegend();
  }

  threshold.addEventListener("input", () => {
    chosen.threshold = Number(threshold.value);
    choose(chosen.query);
  });
  layer.addEventListener("input", () => { chosen.layer = Number(layer.value); update(); });
  value.addEventListener("change", () => { chosen.value = value.checked; update(); });
  heatmap.addEventListener("change", () => { chosen.heat = heatmap.checked; update(); });
  back.addEventListener("click", () => {
    elsewhere.delete(chosen.query);
    if (request?.query === chosen.query) request = null; // its answer is no longer wanted
    update();
    list.children[chosen.query].focus({ preventScroll: true }); // the button is hidden now
  });

  const position = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse());
    return { x, y };
  };
  const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

  // A click chooses the smallest box around it; where there is none, nothing changes.
  svg.addEventListener("click", (event) => {
    const at = position(event);
    const around = listed().map((query) => ({ query, box: now(query)[0].box(now(query)[1], last) }))
      .filter(({ box }) => at.x >= box.x && at.x <= box.x + box.width
        && at.y >= box.y && at.y <= box.y + box.height)
      .sort((a, b) => a.box.width * a.box.height - b.box.width * b.box.height);
    if (dragged || !around.length || around[0].query === chosen.query) return;
    choose(around[0].query);
  });

  // Dragging the initial reference: one request at a time, with the newest position next. A new drag
  // does not wait for the answers to an earlier one, which may never come.
  let dragging = false, dragged = false, starting = false, requests = 0;
  let request = null; // { id, query, next }: its answer is awaited; next: the newest position, if any
  const send = (query, { x, y }) => {
    request = { id: ++requests, query, next: null };
    move({ id: request.id, query: queries[query], x: x / width, y: y / height });
  };
  const isHandle = (event, fingers) => {
    if (!move) return false;
    const [its, query] = now(chosen.query);
    const radius = fingers ? Math.max(3 * unit, 22 * pixel()) : 3 * unit;
    return distance(position(event), its.reference(query, 0)) <= radius;
  };
  // A finger on the handle drags it; anywhere else it scrolls the page, as it does beside the image.
  svg.addEventListener("touchstart", (event) => {
    if (event.touches.length === 1 && isHandle(event.touches[0], true)) event.preventDefault();
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    dragging = dragged = starting = event.isPrimary && event.button === 0
      && isHandle(event, event.pointerType === "touch");
    if (!dragging) return showTip(event);
    tip.hidden = true;
    svg.setPointerCapture(event.pointerId);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    svg.addEventListener(end, () => { dragging = false; });
  }
  svg.addEventListener("pointermove", (event) => {
    if (!dragging) return showTip(event);
    const { x, y } = position(event);
    const at = { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
    if (request && !starting) request.next = at;
    else send(chosen.query, at);
    starting = false;
  });
  svg.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") tip.hidden = true; // a finger leaves as soon as it is lifted
  });
  svg.addEventListener("pointercancel", () => { tip.hidden = true; });

  function showTip(event) {
    const at = position(event);
    for (const p of drawn) p.dot.classList.remove("near");
    const near = drawn.map((p) => ({ p, far: distance(at, { x: p.shownX, y: p.shownY }) }))
      .sort((a, b) => a.far - b.far)[0];
    tip.hidden = !near || near.far > 1.8 * unit;
    if (tip.hidden) return;
    const { p } = near;
    p.dot.classList.add("near");
    tip.textContent = `head ${p.head} · level ${p.level} · point ${p.number}\n`
      + `attention weight ${p.weight.toFixed(4)} (sums to 1 per head)\n`
      + `at x ${p.x.toFixed(1)}, y ${p.y.toFixed(1)} px${p.outside ? ", outside" : ""}\n`
      + `norm of the value read: ${p.norm.toFixed(2)}`;
    const stage = svg.getBoundingClientRect();
    const right = event.clientX - stage.left > stage.width - 230;
    tip.style.left = `${event.clientX - stage.left + (right ? -225 : 14)}px`;
    tip.style.top = `${Math.min(event.clientY - stage.top + 12, stage.height - 84)}px`;
  }

  const turn = (value, step, low, high) => {
    const size = high - low + 1;
    return low + ((value - low + step + size) % size);
  };
  const onKey = {
    ArrowRight: () => { chosen.layer = Math.min(last, chosen.layer + 1); },
    ArrowLeft: () => { chosen.layer = Math.max(0, chosen.layer - 1); },
    ArrowDown: () => { chosen.query = neighbour(1); },
    ArrowUp: () => { chosen.query = neighbour(-1); },
    l: () => { chosen.level = turn(chosen.level, 1, -1, levels - 1); },
    h: () => { chosen.head = turn(chosen.head, 1, -1, heads - 1); },
    v: () => { chosen.value = !chosen.value; },
    r: () => { chosen.heat = !chosen.heat; },
  };
  function neighbour(step) {
    const shown = listed();
    const index = shown.indexOf(chosen.query) + step;
    return shown[Math.min(shown.length - 1, Math.max(0, index))];
  }
  keys.addEventListener("keydown", (event) => {
    const act = onKey[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.target === threshold || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const before = chosen.query;
    act();
    if (chosen.query === before) update();
    else choose(chosen.query);
    // A focus that is in a panel goes with the choice, so that Enter does not undo it.
    const focus = root.getRootNode().activeElement;
    const panel = [list, bars.level, bars.head].find((some) => some.contains(focus));
    panel?.querySelector(".chosen").focus({ preventScroll: true });
  });
  choose(chosen.query);
  new ResizeObserver(drawImage).observe(svg); // the letters keep their size on the screen
  return {
    moved({ id, trace: packed }) {
      if (request?.id !== id) return; // the query was reset or dragged again in the meantime
      const { query, next } = request;
      elsewhere.set(query, unpackTrace(packed, width, height));
      if (next) send(query, next);
      else request = null;
      update();
    },
  };
}

// The notebook's widget: Python sends the data when asked, and the trace of a moved query.
export default {
  render({ model, el }) {
    let inspector;
    const receive = (message) => {
      if (message.data) {
        inspector = inspect(el, message.data, { move: (request) => model.send(request) });
      } else inspector?.moved(message);
    };
    model.on("msg:custom", receive);
    model.send({ ready: true });
    return () => model.off("msg:custom", receive);
  },
};
