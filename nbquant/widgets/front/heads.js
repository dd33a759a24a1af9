// Titles and legends of figures as text of the page, where figures are small: it wraps, and leaves the room to the plot.

/** A title's parts as plotly has them: a bold line, and a smaller one. */
function titleParts(title) {
  const [first, ...rest] = (title?.text ?? "").split("<br>");
  const plain = (text) => text.replace(/<[^>]*>/g, "");
  return [plain(first), plain(rest.join(" "))];
}

/** Cut what stands in brackets off an axis' title that is longer than the axis [px]. */
function shortened(axis, length, size, family) {
  const text = axis?.title?.text;
  if (!text) return axis;
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${size}px ${family}`;
  if (context.measureText(text).width <= length) return axis;
  return { ...axis, title: { ...axis.title, text: text.replace(/ [([].*$/, "") } };
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
    take(layout, data, node, family) {
      const [first, second] = titleParts(layout.title);
      put(title, "textContent", first);
      put(note, "textContent", second);
      const own = { ...layout, title: undefined, margin: { ...layout.margin, t: 10 } };
      const size = layout.font?.size ?? 12;
      if (kind === "curves") {
        own.showlegend = false;
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
      own.yaxis = shortened(layout.yaxis, tall + 10, size, family);
      return own;
    },
  };
}
