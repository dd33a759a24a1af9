// One weight on its way into the file: its bits, index, codeword, and byte.

const TRACE_PARTS = ["sign", "exponent", "mantissa"];

/** Bits as small boxes, `of(i)` naming the part that each belongs to. */
function bitBoxes(bits, of, label) {
  const boxes = [...bits].map((bit, i) => element("span", { textContent: bit, "data-part": of(i) }));
  return element("span", { className: "nbquant-bits", role: "img", "aria-label": label }, ...boxes);
}

function traceStep(title, ...content) {
  return element("li", {}, element("b", { textContent: title }), " ", ...content);
}

/** The steps in words and boxes. */
function traceSteps({ name, place, weight, bits, exponent, index, levels, value, codeword, first_bit: first, stream }) {
  const part = (i) => TRACE_PARTS[i === 0 ? 0 : i <= exponent ? 1 : 2];
  const swatches = TRACE_PARTS.map((each) => element("small", { textContent: each, "data-part": each }));
  const steps = [
    traceStep(`${name}[${place.join(", ")}] = ${significant(weight, 6)}`, bitBoxes(bits, part, `${bits.length} bits: ${bits}`), ...swatches),
  ];
  if (index === null) {
    steps.push(traceStep("pruned", "it is exactly zero and left out; its place is coded as a gap"));
    return steps;
  }
  const error = `an error of ${significant(Math.abs(weight - value))}`;
  steps.push(traceStep(`index ${index} of ${count(levels)}`, `→ centre ${significant(value, 6)}, ${error}`));
  if (first === null) {
    const [from, to] = stream.map(count);
    steps.push(traceStep("no codeword of its own", `it is coded together with others, in bytes ${from} to ${to} of the file`));
    return steps;
  }
  const bytes = `of ${codeword.length} bit instead of ${bits.length}`;
  steps.push(
    traceStep("codeword", codeword ? bitBoxes(codeword, () => "code", `codeword ${codeword}`) : "", bytes),
    traceStep(`byte ${count(Math.floor(first / 8))}`, `of the file, from bit ${first % 8}`),
  );
  return steps;
}

function traceSection(model) {
  const field = element("input", { type: "text", placeholder: "index: 3, 17", spellcheck: false, "data-lm-suppress-shortcuts": "true" });
  const label = element("label", { className: "nbquant-setting" }, element("span", { textContent: "Weight" }), field);
  field.addEventListener("change", () => field.value.trim() && model.send({ kind: "trace", text: field.value }));
  const list = element("ol", { className: "nbquant-trace", "aria-live": "polite" });
  const hint = element("p", { textContent: "Click a cell of a map or a bar of the histogram, or type an index." });
  const section = element("div", { className: "nbquant-form" }, label, hint, list);

  function show() {
    const traced = model.get("traced") ?? {};
    list.replaceChildren(...(traced.name ? traceSteps(traced) : []));
    hint.hidden = Boolean(traced.name);
    if (traced.name) put(field, "value", traced.place.join(", "));
  }
  model.on("change:traced", show);
  show();
  return { section, dispose: () => model.off("change:traced", show) };
}
