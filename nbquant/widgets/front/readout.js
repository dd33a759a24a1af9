// The chosen point in numbers, each in a place of its own width.

/** One number with its label and a note. */
function fact(label) {
  const about = element("span", { className: "nbquant-about", textContent: "≈", "aria-label": "about" });
  const value = element("span");
  const note = element("small");
  const box = element(
    "div",
    { className: "nbquant-fact", "data-fact": label },
    element("b", { textContent: label }),
    element("output", {}, about, value),
    note,
  );
  // An output speaks up by itself whenever it changes; what a drag passes by is not worth a word.
  box.querySelector("output").setAttribute("aria-live", "off");
  return {
    box,
    show(text, remark, isExact) {
      put(value, "textContent", text);
      put(note, "textContent", remark);
      put(about.style, "visibility", isExact ? "hidden" : "visible");
    },
  };
}

/** What was asked for, where the point is 2 % or more away from it. */
function missed(point, name) {
  if (point.driver !== name || !(point.target > 0) || Math.abs(point[name] / point.target - 1) < 0.02) return "";
  return `asked for ${QUANTITIES[name].text(point.target)}${name === "ratio" ? "×" : ""}`;
}

function readoutSection() {
  const live = ["compression ratio", "rate [bit/weight]", "levels", "predicted loss increase"].map(fact);
  const [ratio, rate, levels, loss] = live;
  let further = new Map();
  const section = element("section", { className: "nbquant-readout", "aria-label": "Chosen point", hidden: true });
  section.append(...live.map(({ box }) => box));

  return {
    section,
    show(point) {
      section.hidden = false;
      const parameter = point.parameter === "levels" ? "" : `${QUANTITIES[point.parameter].label.at(-1)} = `;
      ratio.show(`${QUANTITIES.ratio.text(point.ratio)}×`, missed(point, "ratio"), point.exact);
      rate.show(QUANTITIES.rate.text(point.rate), missed(point, "rate"), point.exact);
      levels.show(count(point.levels), parameter && parameter + significant(point.value), true);
      loss.show(significant(point.loss), point.note || (point.by_hand ? "by hand" : ""), point.exact);
    },
    facts(facts) {
      const shown = new Map();
      for (const { label, value, note } of facts) {
        const one = further.get(label) ?? fact(label);
        one.show(value ?? "–", note ?? "", true);
        shown.set(label, one);
      }
      for (const [label, { box }] of further) if (!shown.has(label)) box.remove();
      section.append(...[...shown.values()].map(({ box }) => box));
      further = shown;
    },
  };
}

/** The point in words, for the moment when it has come to rest. */
function inWords(point) {
  const { ratio, rate, levels } = QUANTITIES;
  return (
    `${point.exact ? "" : "about "}${ratio.said(point.ratio)}, ${rate.said(point.rate)}, ${levels.said(point.levels)}, ` +
    `predicted loss increase ${significant(point.loss)}${point.by_hand ? ", a centre moved by hand" : ""}.`
  );
}
