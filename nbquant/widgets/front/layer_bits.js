// Bits of each layer as bars that can be pulled from one block format to the next.

/** The step nearest to a share of the bar's width. */
function nearestStep(steps, share, most) {
  let best = 0;
  steps.forEach(([, rate], i) => {
    if (Math.abs(rate / most - share) < Math.abs(steps[best][1] / most - share)) best = i;
  });
  return best;
}

/** `send(layer, format)` asks for a layer's format, null for a chosen one; `controls` and `actions` stand above. */
function layerBitsSection(model, send, ...above) {
  const list = element("ul", { className: "nbquant-layer-bits", "aria-label": "Bits by layer" });
  const note = element("p");
  const section = element("div", { className: "nbquant-form" }, ...above, note, list);
  const rows = new Map(); // layer -> row
  let most = 1;

  function makeRow(layer) {
    const fill = element("div", { className: "nbquant-bits-fill" });
    const marks = element("div", { className: "nbquant-bits-marks", "aria-hidden": "true" });
    const bar = element("div", { className: "nbquant-bits-bar", role: "slider", tabIndex: 0, "aria-label": `Bits of ${layer}` }, fill, marks);
    bar.setAttribute("data-lm-suppress-shortcuts", "true");
    const text = element("span", { className: "nbquant-bits-text" });
    const free = element("button", { type: "button", textContent: "×", title: `Let the format of ${layer} be chosen`, "aria-label": `Let the format of ${layer} be chosen` });
    const item = element("li", { "data-layer": layer }, element("span", { textContent: layer, title: layer }), bar, text, free);
    const row = { item, bar, fill, marks, text, free, entry: null, pulled: null };

    const shown = () => row.pulled ?? row.entry.steps.findIndex(([name]) => name === row.entry.format);
    function paint() {
      const at = Math.max(shown(), 0);
      const [name, rate] = row.entry.steps[at];
      put(fill.style, "width", `${(100 * rate) / most}%`);
      put(text, "textContent", `${name} ${rate.toFixed(2)}`);
      bar.setAttribute("aria-valuemin", "0");
      bar.setAttribute("aria-valuemax", String(row.entry.steps.length - 1));
      bar.setAttribute("aria-valuenow", String(at));
      bar.setAttribute("aria-valuetext", `${name}, ${rate.toFixed(2)} bit/weight${row.entry.own ? ", set by hand" : ""}`);
      item.toggleAttribute("data-own", row.entry.own || row.pulled !== null);
      free.style.visibility = row.entry.own ? "" : "hidden";
    }
    row.show = (entry) => {
      row.entry = entry;
      if (!row.held) row.pulled = null;
      const steps = entry.steps.map(([name, rate]) => {
        const mark = element("i", { title: `${name}: ${rate.toFixed(2)} bit/weight` });
        mark.style.left = `${(100 * rate) / most}%`;
        return mark;
      });
      marks.replaceChildren(...steps);
      paint();
    };
    function ask(step) {
      const within = Math.min(Math.max(step, 0), row.entry.steps.length - 1);
      row.pulled = within;
      paint();
      return within;
    }
    function follow(event) {
      const box = bar.getBoundingClientRect();
      ask(nearestStep(row.entry.steps, (event.clientX - box.left) / box.width, most));
    }
    bar.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      row.held = true;
      bar.setPointerCapture(event.pointerId);
      follow(event);
    });
    bar.addEventListener("pointermove", (event) => row.held && follow(event));
    const drop = (isWanted) => {
      if (!row.held) return;
      row.held = false;
      if (isWanted && row.pulled !== null) send(layer, row.entry.steps[row.pulled][0]);
      else row.pulled = null;
      paint();
    };
    bar.addEventListener("pointerup", () => drop(true));
    bar.addEventListener("pointercancel", () => drop(false));
    bar.addEventListener("keydown", (event) => {
      const last = row.entry.steps.length - 1;
      const at = shown();
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Delete" || event.key === "Backspace") send(layer, null);
      else if (to === undefined) return;
      else if (to >= 0 && to <= last) send(layer, row.entry.steps[ask(to)][0]);
      event.preventDefault();
      event.stopPropagation();
    });
    free.addEventListener("click", () => send(layer, null));
    return row;
  }

  function show() {
    const entries = model.get("layer_bits") ?? [];
    most = Math.max(...entries.flatMap(({ steps }) => steps.map(([, rate]) => rate)), 1);
    const layers = entries.map(({ layer }) => layer);
    for (const [layer, { item }] of [...rows]) {
      if (layers.includes(layer)) continue;
      item.remove();
      rows.delete(layer);
    }
    entries.forEach((entry, place) => {
      if (!rows.has(entry.layer)) rows.set(entry.layer, makeRow(entry.layer));
      const row = rows.get(entry.layer);
      row.show(entry);
      if (list.children[place] !== row.item) list.insertBefore(row.item, list.children[place] ?? null);
    });
    put(note, "textContent", entries.length ? "Bit/weight by layer. Pull a bar or use the arrow keys; the other layers adapt." : "Choose the method “block formats” to see the bits of each layer.");
    list.hidden = !entries.length;
  }
  model.on("change:layer_bits", show);
  show();
  return { section, dispose: () => model.off("change:layer_bits", show) };
}
