// One slider and one number for each quantity that can drive; the others follow.

const STEP = 10 ** 0.005; // 1.2 %
const PAGE = 10; // steps
const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: PAGE, PageDown: -PAGE };

/** One quantity's slider; `ask(name, value)` is told each wish, `complain(text)` each number that cannot be. */
function quantityControl(name, ask, complain) {
  const { label, unit, text, said } = QUANTITIES[name];
  const isLinear = name === "levels";
  const to = isLinear ? (v) => v : Math.log;
  const from = isLinear ? Math.round : Math.exp;
  // JupyterLab would take the arrow keys for its own.
  const range = element("input", { type: "range", step: isLinear ? "1" : "any", "data-lm-suppress-shortcuts": "true" });
  const number = element("input", { type: "number", step: "any", "data-lm-suppress-shortcuts": "true" });
  range.setAttribute("aria-label", label);
  number.setAttribute("aria-label", unit ? `${label} [${unit}]` : label);
  const title = element("span", { className: "nbquant-drive-label", textContent: label });
  const row = element(
    "div",
    { className: "nbquant-drive-row", role: "group", "data-driver": name, "aria-label": label },
    title,
    range,
    element("span", { className: "nbquant-drive-number" }, number, element("span", { textContent: unit })),
  );
  let bounds = [1, 1];
  let value = NaN;
  const drives = () => row.hasAttribute("data-drives");
  const play = PLAYED.has(name) ? playButton(label, () => bounds, () => value, drives, wish) : null;
  if (play) row.lastChild.append(play.button);
  let typing = false;

  const within = (v) => Math.min(Math.max(v, bounds[0]), bounds[1]);

  function wish(v) {
    complain("");
    value = within(isLinear ? Math.round(v) : Number(v.toPrecision(4)));
    show(value, true);
    ask(name, value);
  }

  function show(v, isDriver) {
    value = v;
    const at = String(to(v));
    put(range, "value", at);
    const spoken = isDriver ? `${said(v)}, drives` : said(v);
    if (range.ariaValueText !== spoken) range.ariaValueText = spoken;
    if (!typing) put(number, "value", text(v));
    if (row.hasAttribute("data-drives") !== isDriver) row.toggleAttribute("data-drives", isDriver);
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = KEYS[event.key];
    let wished = NaN;
    if (steps) wished = isLinear ? value + steps : value * STEP ** steps;
    else if (event.target === range && event.key === "Home") wished = bounds[0];
    else if (event.target === range && event.key === "End") wished = bounds[1];
    if (event.target === number && (event.key === "ArrowLeft" || event.key === "ArrowRight")) return;
    if (!Number.isFinite(wished)) return;
    event.preventDefault();
    typing = false;
    play?.stop();
    wish(wished);
  }

  function onTyped() {
    typing = false;
    const typed = number.valueAsNumber;
    const kept = `${text(value)} is kept`;
    const [low, high] = bounds;
    if (!Number.isFinite(typed)) complain(`${label}: a number is required; ${kept}.`);
    // What is shown was rounded: the bounds as they are shown are within them.
    else if (typed < low && text(low) !== text(typed)) complain(outside(typed, kept));
    else if (typed > high && text(high) !== text(typed)) complain(outside(typed, kept));
    else return wish(typed);
    show(value, row.hasAttribute("data-drives"));
    put(number, "value", text(value));
  }

  const outside = (typed, kept) =>
    `${label} reaches ${text(bounds[0])} to ${text(bounds[1])}, but ${significant(typed, 4)} was typed; ${kept}.`;

  range.addEventListener("input", () => {
    play?.stop();
    wish(from(Number(range.value)));
  });
  number.addEventListener("input", () => {
    typing = true;
    play?.stop();
  });
  // A change also comes on leaving a field whose text we set since Enter: what is shown is rounded, and not asked for.
  for (const event of ["change", "blur"]) number.addEventListener(event, () => typing && onTyped());
  // Where a notebook takes Enter, no change follows it.
  number.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && typing) onTyped();
  });
  range.addEventListener("keydown", onKey);
  number.addEventListener("keydown", onKey);

  return {
    row,
    get value() {
      return value;
    },
    bound([low, high]) {
      bounds = [low, high];
      range.min = String(to(low));
      range.max = String(to(high));
      range.disabled = number.disabled = !(high > 0);
    },
    show,
    stop: () => play?.stop(),
  };
}

const SEARCHED = "accuracy_loss"; // of which no curve has bounds
const SEARCHED_BOUNDS = [0.01, 30]; // percentage points

/** The section of all sliders; `canSearch` says whether there are data to search for an accuracy on. */
function driveSection(ask, canSearch) {
  const grid = element("div", { className: "nbquant-drive-grid" });
  const chooser = element("select", { className: "nbquant-drive-chooser", "aria-label": "What drives" });
  const note = element("div", { className: "nbquant-drive-note", role: "status" });
  const section = element(
    "section",
    { className: "nbquant-drive", "aria-label": "Operating point", hidden: true },
    chooser,
    grid,
    note,
  );
  const controls = new Map();
  let complaint = "";
  let noted = "";
  const tell = () => put(note, "textContent", complaint || noted);
  const complain = (text) => {
    complaint = text;
    note.toggleAttribute("data-complains", Boolean(text));
    tell();
  };
  chooser.addEventListener("change", () => ask(chooser.value, controls.get(chooser.value).value));

  return {
    section,
    note,
    /** Take up another curve's bounds. */
    bound(table) {
      complain(""); // it was of another curve
      const names = ["ratio", "rate", "levels", ...(table.parameter === "levels" ? [] : [table.parameter])];
      if (canSearch) names.push(SEARCHED);
      if (names.join() !== [...controls.keys()].join()) {
        for (const [name, control] of controls) {
          if (names.includes(name)) continue;
          control.stop();
          control.row.remove();
          controls.delete(name);
        }
        for (const name of names) {
          if (!controls.has(name)) controls.set(name, quantityControl(name, ask, complain));
          grid.append(controls.get(name).row);
        }
        const options = names.map((name) => element("option", { value: name, textContent: QUANTITIES[name].label }));
        chooser.replaceChildren(...options);
      }
      for (const [name, control] of controls) control.bound(name === SEARCHED ? SEARCHED_BOUNDS : boundsOf(table, name));
      section.hidden = false;
    },
    /** Put every slider where the point is; the driver's where it was asked to be. */
    show(point) {
      for (const [name, control] of controls) {
        const isDriver = name === point.driver;
        const searched = point.accuracy_loss ?? (control.value > 0 ? control.value : 0.5);
        const here = name === SEARCHED ? searched : name === point.parameter ? point.value : point[name];
        control.show(isDriver && point.target > 0 ? point.target : here, isDriver);
      }
      if (controls.has(point.driver)) put(chooser, "value", point.driver);
      noted = point.by_hand ? "A centre was moved by hand; Escape in the histogram releases it." : "";
      tell();
    },
    hide() {
      this.stop();
      section.hidden = true;
    },
    stop() {
      controls.forEach((control) => control.stop());
    },
  };
}
