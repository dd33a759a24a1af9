// What breaks by quantization: samples whose answer flips, and filters before and after.

const FLIPS = { broken: "was right", mended: "is right now", other: "wrong in both" };
const LEAST_PICTURE = 44; // px

/** A picture of pixels, `colour(i)` giving red, green and blue of each. */
function pixels(width, height, colour, label) {
  const canvas = element("canvas", { width, height, className: "nbquant-pixels", role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
  const scale = Math.max(1, Math.ceil(LEAST_PICTURE / Math.max(width, height)));
  canvas.style.width = `${width * scale}px`;
  return canvas;
}

/** Blue below zero, red above, white between. */
function signedColour(value) {
  const fade = Math.round(255 * (1 - Math.min(Math.abs(value), 1)));
  return value < 0 ? [fade, fade, 255] : [255, fade, fade];
}

function flipItem({ kind, where, target, before, after, confidence, picture, text }) {
  const shown = picture ? decoded(picture.rgb) : null;
  const image = shown && pixels(picture.width, picture.height, (i) => shown.subarray(3 * i, 3 * i + 3), where);
  const answer = element("b", { textContent: `${before} → ${after}` });
  const title = `${where}: class ${target}, before ${before}, now ${after} (${percent(confidence)})`;
  return element(
    "li",
    { title, "data-flip": kind },
    image || element("code", { textContent: text }),
    answer,
    element("small", { textContent: `${FLIPS[kind]}, class ${target}` }),
  );
}

function filterRows({ name, width, height, before, after }) {
  const row = (label, values) => {
    const size = width * height;
    const canvases = Array.from({ length: values.length / size }, (_, k) =>
      pixels(width, height, (i) => signedColour(values[k * size + i]), `${label}, filter ${k}`),
    );
    return element("div", { className: "nbquant-filters", role: "group", "aria-label": `Filters ${label}` }, element("small", { textContent: label }), ...canvases);
  };
  return [element("b", { textContent: `Filters of ${name}` }), row("before", decoded(before)), row("after", decoded(after))];
}

/** `button` runs the comparison. */
function breaksSection(model, button) {
  const summary = element("p", { "aria-live": "polite" });
  const flips = element("ul", { className: "nbquant-flips" });
  const filters = element("div");
  const section = element("div", { className: "nbquant-form" }, button, summary, flips, filters);

  function show() {
    const found = model.get("breaks") ?? {};
    put(summary, "textContent", found.summary ?? "Compares the answers with the original's on as many test samples as take about a second.");
    flips.replaceChildren(...(found.flips ?? []).map(flipItem));
    filters.replaceChildren(...(found.filters ? filterRows(found.filters) : []));
  }
  model.on("change:breaks", show);
  show();
  return { section, dispose: () => model.off("change:breaks", show) };
}
