// The explorer on one screen: target, read-out, histogram, curves and one tab beside each other.

const KEYS_OF_ACTIONS = { u: "undo", r: "redo", p: "pin", m: "measure" };
const SHORTCUTS = [
  ["t", "go to the slider of the target"],
  ["← → ↑ ↓", "move the target, a cluster centre or a row, whichever has the focus"],
  ["Page up, Page down", "move the target ten times as far"],
  ["u, r", "undo, redo"],
  ["p", "pin the operating point"],
  ["m", "measure the accuracy"],
  ["Tab, then ← →", "choose a tab"],
  ["Shift + ← →", "in the histogram: move the chosen centre by hand; Escape releases it"],
  ["Space", "in the table of layers: select the layer"],
  ["?", "these keys"],
];
const AREAS = ["map", "map2", "map3"];

/** Which layout fits [px]: all side by side, one tab beside the curves, or half a screen. */
function layoutOf(width, factor) {
  if (width >= 1320 * factor) return "wide";
  return width >= 760 * factor ? "standard" : "half";
}

const NARROW = 480; // up to which figures stand below each other, and the page scrolls

/** The height of the outermost part of the page that scrolls around an element [px]; inner ones may be as tall as it. */
function heightAround(el) {
  let height = window.innerHeight;
  for (let each = el.parentElement; each && each !== document.body; each = each.parentElement) {
    const { overflowY } = getComputedStyle(each);
    if ((overflowY === "auto" || overflowY === "scroll") && each.clientHeight > 300) height = each.clientHeight;
  }
  return Math.min(height, window.innerHeight);
}

function cockpit({ model, el }) {
  const disposers = [];
  const added = (part) => {
    disposers.push(part.dispose);
    return part.section ?? part.row;
  };
  const act = (name) => model.send({ kind: "act", name });
  return figurePanel({ model, el }, (parts) => {
    arrangeCockpit(parts, model, act, added, disposers);
    return () => disposers.forEach((dispose) => dispose());
  });
}

function arrangeCockpit({ panel, drive, readout, ledger, said, probe, names, kinds, boxes, tools, heads }, model, act, added, disposers) {
  panel.classList.add("nbquant-cockpit");
  panel.toggleAttribute("data-static", Boolean(model.get("static")));
  const first = (kind) => names.find((name) => kinds[name] === kind);
  const fixed = { clusters: first("clusters"), curves: first("curves") };
  for (const name of names) {
    const head = figureHead(kinds[name], tools.get(name).told);
    heads.set(name, head);
    boxes.get(name).prepend(head.head);
  }
  if (fixed.curves) heads.get(fixed.curves).add(added(settingsSection(model, "curves", "Vertical axis")));
  const area = (node, name) => {
    node.style.gridArea = name;
    return node;
  };

  // The bar on top.
  const slider = () => drive.section.querySelector("[data-drives] input[type=range]");
  const skip = element("a", { className: "nbquant-skip", href: "#", textContent: "Skip to the target" });
  skip.addEventListener("click", (event) => {
    event.preventDefault();
    slider()?.focus();
  });
  const help = shortcutsDialog();
  const ask = element("button", { type: "button", textContent: "?", title: "Keyboard shortcuts", "aria-label": "Keyboard shortcuts" });
  ask.addEventListener("click", () => help.showModal());
  const bar = element("div", { className: "nbquant-bar" }, skip, drive.section, added(actionRow(model, "bar", act)), ask);

  // Panels beside the curves.
  const tables = Object.fromEntries(
    ["layers", "codebook", "pins", "file"].map((name) => {
      const holder = element("div", { className: "nbquant-holder" });
      disposers.push(dataTable({ model: tableModel(model, `${name}_table`), el: holder }));
      return [name, holder];
    }),
  );
  const method = added(settingsSection(model, "method", "Method"));
  const side = element("div", { className: "nbquant-side" }, method, tables.layers);
  const settings = element(
    "div",
    { className: "nbquant-form" },
    added(settingsSection(model, "sensitivity", "Sensitivity")),
    added(settingsSection(model, "picture", "Pictures")),
  );
  const bits = element("div", { className: "nbquant-form" }, ledger.section);
  const pins = element("div", { className: "nbquant-pins" }, added(settingsSection(model, "pins", "Compare")), added(versusSection(model)), tables.pins);
  const titles = model.get("titles");
  const entries = [{ name: "side", title: "Layers", panel: side }];
  for (const name of names) {
    if (name !== fixed.clusters && name !== fixed.curves) entries.push({ name, title: titles[name], panel: boxes.get(name) });
  }
  entries.push(
    { name: "codebook", title: "Codebook", panel: tables.codebook },
    { name: "pins", title: "Pins", panel: pins },
    { name: "bits", title: "Bits", panel: bits },
    ...(model.get("static") ? [] : [...ofWeights(model, act, added), ...ofFormats(model, act, added, tables.file)]),
    { name: "settings", title: "Settings", panel: settings },
    { name: "save", title: "Save", panel: saveForm(model, act, added, disposers) },
  );
  const tabs = tabList(entries, "Details");
  const maps = names.filter((name) => kinds[name] === "map");
  tabs.choose(maps[0] ?? "codebook");

  const trace = () => ["map", "clusters"].includes(kinds[model.get("clicked").figure]) && tabs.choose("weight");
  if (!model.get("static")) {
    model.on("change:clicked", trace);
    disposers.push(() => model.off("change:clicked", trace));
  }

  const status = statusLine(model, act, disposers);
  status.line.prepend(drive.note); // beside the slider it would cover the numbers
  panel.append(area(bar, "bar"), area(readout.section, "facts"));
  for (const [place, name] of Object.entries(fixed)) if (name) panel.append(area(boxes.get(name), place));
  panel.append(area(tabs.list, "tabs"), ...entries.map(({ panel: each }) => each), status.alert, area(status.line, "status"), said, probe, help);

  const late = () => {
    for (const name of model.get("late")) tabs.hide(name, !model.get(name)?.data);
  };
  for (const name of model.get("late")) {
    model.on(`change:${name}`, late);
    disposers.push(() => model.off(`change:${name}`, late));
  }
  late();

  // What stands where.
  function arrange() {
    const factor = SIZES[model.get("size")] ?? 1;
    const width = panel.clientWidth;
    if (!width) return;
    const layout = layoutOf(width, factor);
    const pinned = {};
    if (layout !== "half") pinned.side = "side";
    if (layout === "wide") {
      maps.slice(0, AREAS.length).forEach((name, i) => (pinned[name] = AREAS[i]));
      Object.assign(pinned, { codebook: "codebook", pins: "pins" });
    }
    for (const { name, panel: each } of entries) area(each, pinned[name] ?? "tab");
    tabs.free(entries.map(({ name }) => name).filter((name) => !pinned[name]));
    put(panel.dataset, "layout", layout);
    panel.toggleAttribute("data-narrow", width < NARROW * factor);
    const most = window.innerWidth > 1280 || window.innerHeight > window.innerWidth ? 1000 : 660;
    const above = model.get("static") ? panel.getBoundingClientRect().top + window.scrollY : 0; // a page of its own
    const seen = heightAround(panel) - above - 20;
    const height = Math.max(Math.min(seen, most), 420);
    panel.style.setProperty("--nbquant-height", `${height}px`);
    panel.toggleAttribute("data-short", height < 560 * factor);
  }
  const sizes = new ResizeObserver(arrange);
  sizes.observe(panel);
  window.addEventListener("resize", arrange);
  model.on("change:size", arrange);
  disposers.push(() => {
    sizes.disconnect();
    window.removeEventListener("resize", arrange);
    model.off("change:size", arrange);
  });

  // Numbers and clusters of other settings are dimmed until those of the new ones are there.
  const dim = () => panel.toggleAttribute("data-stale", model.get("stale"));
  model.on("change:stale", dim);
  disposers.push(() => model.off("change:stale", dim));
  dim();

  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !status.alert.hidden && !event.defaultPrevented) status.alert.hidden = true;
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.target.matches("textarea, select, input:not([type=range], [type=checkbox])")) return;
    if (event.key === "?") help.showModal();
    else if (event.key === "t") slider()?.focus();
    else if (KEYS_OF_ACTIONS[event.key] && !model.get("blocked")[KEYS_OF_ACTIONS[event.key]]) act(KEYS_OF_ACTIONS[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

/** Tabs of what needs the weights themselves. */
function ofWeights(model, act, added) {
  const button = added(actionRow(model, "breaks", act));
  return [
    { name: "weight", title: "Weight", panel: added(traceSection(model)) },
    { name: "breaks", title: "Breaks", panel: added(breaksSection(model, button)) },
  ];
}

/** Tabs of formats of other libraries, and of their files. */
function ofFormats(model, act, added, table) {
  const send = (layer, format) => model.send({ kind: "layer format", layer, format });
  const settings = added(settingsSection(model, "formats", "Block formats"));
  const formats = added(layerBitsSection(model, send, element("div", { className: "nbquant-form-row" }, settings, added(actionRow(model, "formats", act)))));
  const row = element("div", { className: "nbquant-form-row" }, added(settingsSection(model, "file", "Quantized file")), added(actionRow(model, "file", act)));
  return [
    { name: "formats", title: "Formats", panel: formats },
    { name: "file", title: "File", panel: element("div", { className: "nbquant-pins nbquant-file" }, row, table) },
  ];
}

/** What trains, saves and restores. */
function saveForm(model, act, added, disposers) {
  const session = element("input", { type: "file", accept: ".json", hidden: true });
  const restore = element("button", { type: "button", className: "nbquant-restore", textContent: "Restore session" });
  restore.title = "Take up a session that was saved";
  restore.disabled = Boolean(model.get("static"));
  restore.addEventListener("click", () => session.click());
  session.addEventListener("change", async () => {
    const [file] = session.files;
    if (file) model.send({ kind: "restore" }, undefined, [await file.arrayBuffer()]);
    session.value = ""; // so that the same file can be taken again
  });
  const code = element("textarea", { className: "nbquant-code", readOnly: true, "aria-label": "The same in Python", spellcheck: false });
  const showCode = () => {
    const text = model.get("code_text");
    put(code, "value", text);
    put(code, "hidden", !text);
  };
  const outcome = element("div", { className: "nbquant-outcome", "aria-live": "polite" });
  const showOutcome = () => put(outcome, "textContent", model.get("outcome"));
  for (const [name, show] of [
    ["code_text", showCode],
    ["outcome", showOutcome],
  ]) {
    model.on(`change:${name}`, show);
    disposers.push(() => model.off(`change:${name}`, show));
    show();
  }
  const row = added(actionRow(model, "session", act));
  row.append(restore, session);
  return element(
    "div",
    { className: "nbquant-form" },
    element("div", { className: "nbquant-form-row" }, added(settingsSection(model, "prune", "Prune")), added(actionRow(model, "prune", act))),
    element("div", { className: "nbquant-form-row" }, added(settingsSection(model, "train", "Fine-tune")), added(actionRow(model, "train", act))),
    element("div", { className: "nbquant-form-row" }, added(settingsSection(model, "save", "Save")), added(actionRow(model, "save", act))),
    row,
    outcome,
    code,
  );
}

/** What is under way, with a button that ends it; and what went wrong. */
function statusLine(model, act, disposers) {
  const bar = element("progress", { max: 1, "aria-label": "Progress" });
  const text = element("span");
  const cancel = element("button", { type: "button", textContent: "Cancel", title: "Stop what is under way" });
  cancel.addEventListener("click", () => act("cancel"));
  const work = element("div", { className: "nbquant-work" }, bar, text, cancel);
  const told = element("div", { className: "nbquant-error", role: "alert" });
  const close = element("button", { type: "button", textContent: "×", "aria-label": "Close" });
  const alert = element("div", { className: "nbquant-alert", hidden: true }, told, close);
  close.addEventListener("click", () => (alert.hidden = true));
  const still = element("span", { className: "nbquant-still" });
  const resume = element("button", { type: "button", textContent: "Go on", title: "Go on with what was cancelled" });
  resume.addEventListener("click", () => act("resume"));
  const stopped = element("div", { className: "nbquant-stopped" }, "Cancelled: what is shown may be of earlier settings.", resume);
  const line = element("div", { className: "nbquant-status", role: "status", "aria-live": "polite" }, work, stopped, still);

  function showWork() {
    const activity = model.get("activity");
    const progress = model.get("progress");
    work.style.display = activity ? "" : "none";
    stopped.hidden = Boolean(activity) || !model.get("cancelled");
    still.hidden = Boolean(activity) || !stopped.hidden;
    put(text, "textContent", [activity, model.get("pace")].filter(Boolean).join(": "));
    if (progress >= 0) bar.value = progress;
    else bar.removeAttribute("value");
  }
  function showProblem() {
    const problem = model.get("problem");
    put(told, "textContent", problem);
    alert.hidden = !problem;
  }
  const showStill = () => put(still, "textContent", model.get("summary"));
  const changes = { activity: showWork, progress: showWork, pace: showWork, cancelled: showWork, problem: showProblem, summary: showStill };
  for (const [name, show] of Object.entries(changes)) {
    model.on(`change:${name}`, show);
    disposers.push(() => model.off(`change:${name}`, show));
    show();
  }
  return { line, alert };
}

function shortcutsDialog() {
  const rows = SHORTCUTS.flatMap(([keys, text]) => [element("kbd", { textContent: keys }), element("span", { textContent: text })]);
  const close = element("button", { type: "button", textContent: "Close" });
  const dialog = element(
    "dialog",
    { className: "nbquant-help", "aria-label": "Keyboard shortcuts" },
    element("div", { className: "nbquant-keys" }, ...rows),
    close,
  );
  close.addEventListener("click", () => dialog.close());
  // A notebook would take Tab and Escape for its own. The browser keeps Tab within the dialog, and Escape closes it.
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Escape" && event.key !== "?") return;
    event.preventDefault();
    dialog.close();
  });
  close.setAttribute("data-lm-suppress-shortcuts", "true");
  dialog.setAttribute("data-lm-suppress-shortcuts", "true");
  return dialog;
}
