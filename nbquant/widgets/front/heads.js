// Titles and legends of figures as text of the page, where figures are small: it wraps, and leaves the room to the plot.

/** A title's parts as plotly has them: a bold line, and a smaller one. */
function titleParts(title) {
  const [first, ...rest] = (title?.text ?? "").split("<br>");
  const plain = (text) => text.replace(/<[^>]*>/g, "");
  return [plain(first), plain(rest.join(" "))];
}

/** A text that fits a length [px]: whole, or without what stands in brackets, or without its first words. */
function fitted(text, length, size, family) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${size}px ${family}`;
  const fits = (each) => context.measureText(each).width <= length;
  const brief = text.replace(/ [([].*$/, "");
  const words = brief.split(" ");
  const shorter = [text, brief, ...words.slice(1).map((_, i) => words.slice(i + 1).join(" "))];
  return shorter.find(fits) ?? "";
}

/** An axis whose title is no longer than it. */
function shortened(axis, length, size, family) {
  const text = axis?.title?.text;
  return text ? { ...axis, title: { ...axis.title, text: fitted(text, length, size, family) } } : axis;
}

/** An axis whose tick labels of a width stand side by side on a length [px]. */
function thinned(axis, length, each) {
  const { tickvals, ticktext } = axis ?? {};
  if (!Array.isArray(tickvals) || !Array.isArray(ticktext)) return axis;
  const step = Math.max(Math.ceil((tickvals.length * each) / Math.max(length, each)), 1);
  const kept = (list) => list.filter((_, i) => i % step === 0);
  return { ...axis, tickangle: 0, tickvals: kept(tickvals), ticktext: kept(ticktext) };
}

/** One entry a colour: curves of a method differ in their dashes. */
function legendEntries(data) {
  const entries = new Map();
  for (const { name, line, marker, showlegend, mode } of data) {
    const colour = mode === "markers" ? marker?.color : line?.color;
    if (!showlegend || !name || typeof colour !== "string") continue;
    const known = entries.get(colour);
    if (!known || name.length < known.name.length) entries.set(colour, { name, colour });
  }
  return [...entries.values()];
}

/** The head of a figure; `take(layout, data, node, family)` moves title and legend into it, and gives the other layout. */
function figureHead(kind, told) {
  const title = element("b");
  const note = element("span", { className: "nbquant-head-note" });
  const legend = element("ul", { className: "nbquant-legend" });
  const head = element("div", { className: "nbquant-head" }, title, note, told, legend);
  return {
    head,
    /** Put a control beside the title. */
    add: (control) => title.after(control),
    take(layout, data, node, family) {
      const [first, second] = titleParts(layout.title);
      put(title, "textContent", first);
      put(note, "textContent", second);
      const own = { ...layout, title: undefined, margin: { ...layout.margin, t: 10 } };
      const size = layout.font?.size ?? 12;
      if (kind === "curves") {
        own.showlegend = false;
        own.xaxis = thinned(layout.xaxis, node.clientWidth - 90, 3.8 * size);
        own.margin.b = 3.4 * size;
        const items = legendEntries(data).map(({ name, colour }) => {
          const swatch = element("span", { className: "nbquant-swatch", "aria-hidden": "true" });
          swatch.style.backgroundColor = colour;
          return element("li", {}, swatch, name);
        });
        const dashed = data.some(({ line, showlegend }) => showlegend && line?.dash === "dash");
        if (dashed) items.push(element("li", { textContent: "dashed: unweighted" }));
        legend.replaceChildren(...items);
      }
      const tall = node.clientHeight - own.margin.t - (own.margin.b ?? 44);
      own.yaxis = shortened(layout.yaxis, tall + 8, size, family);
      if (kind === "map") {
        const ticks = (axis, length, each) => ({ ...axis, nticks: Math.max(Math.floor(length / each), 2), tickangle: 0 });
        own.xaxis = ticks(layout.xaxis, node.clientWidth - 170, 4.5 * size);
        own.yaxis = ticks(own.yaxis, tall, 2 * size);
      }
      return own;
    },
    /** Traces whose colour bars' titles fit. */
    traces(data, node, layout, family) {
      const tall = node.clientHeight - layout.margin.t - (layout.margin.b ?? 44);
      return data.map((trace) => {
        const title = trace.colorbar?.title;
        if (!title) return trace;
        const text = fitted(title.text, tall + 8, title.font?.size ?? 12, family);
        return { ...trace, colorbar: { ...trace.colorbar, title: { ...title, text } } };
      });
    },
  };
}
