// Controls of the explorer's inputs, each of a trait of its name.

const KINDS = {
  choice(spec, change) {
    const control = element("select");
    let options = "";
    return {
      control,
      show(value, { options: fresh }) {
        if (JSON.stringify(fresh) !== options) {
          options = JSON.stringify(fresh);
          control.replaceChildren(...fresh.map(([label], i) => element("option", { value: String(i), textContent: label })));
        }
        put(control, "selectedIndex", fresh.findIndex(([, each]) => each === value));
      },
      listen: (of) => control.addEventListener("change", () => change(of().options[control.selectedIndex][1])),
    };
  },
  flag(spec, change) {
    const control = element("input", { type: "checkbox" });
    return {
      control,
      show: (value) => put(control, "checked", Boolean(value)),
      listen: () => control.addEventListener("change", () => change(control.checked)),
    };
  },
  number(spec, change) {
    const { least, most, step } = spec;
    const control = element("input", { type: "number", min: String(least), max: String(most), step: String(step) });
    let shown = NaN;
    return {
      control,
      show(value) {
        shown = value;
        put(control, "value", String(value));
      },
      listen() {
        control.addEventListener("change", () => {
          const typed = control.valueAsNumber;
          const within = Math.min(Math.max(typed, least), most);
          if (!Number.isFinite(typed) || typed !== within) {
            control.value = String(Number.isFinite(typed) ? within : shown);
            if (!Number.isFinite(typed)) return;
          }
          change(spec.whole ? Math.round(within) : within);
        });
      },
    };
  },
  text(spec, change) {
    const control = element("input", { type: "text", placeholder: spec.placeholder, spellcheck: false });
    return {
      control,
      show: (value) => control.getRootNode().activeElement !== control && put(control, "value", String(value)),
      listen() {
        control.addEventListener("change", () => change(control.value));
        // Notebooks keep the browser from taking Enter for a change.
        control.addEventListener("keydown", (event) => event.key === "Enter" && change(control.value));
      },
    };
  },
};

/** A section of the controls of one place, kept in step with the model. */
function settingsSection(model, place, title) {
  const section = element("section", { className: "nbquant-settings", "aria-label": title });
  const shown = new Map(); // name -> {spec, label, show}
  const specs = () => model.get("controls").filter((spec) => spec.place === place);

  for (const spec of specs()) {
    const { name, kind } = spec;
    const change = (value) => {
      model.set(name, value);
      model.save_changes();
    };
    const { control, show, listen } = KINDS[kind](spec, change);
    control.setAttribute("data-lm-suppress-shortcuts", "true");
    const text = element("span", { textContent: spec.label });
    const label = element("label", { className: "nbquant-setting", "data-setting": name, "data-kind": kind }, text, control);
    if (kind === "flag") label.append(text);
    const entry = { spec, label, control, show };
    listen(() => entry.spec);
    shown.set(name, entry);
    section.append(label);
  }

  function refresh() {
    for (const spec of specs()) {
      const entry = shown.get(spec.name);
      entry.spec = spec;
      put(entry.control, "disabled", Boolean(spec.disabled));
      put(entry.label, "title", spec.disabled ? `Not here: ${spec.disabled}` : spec.tooltip);
      entry.show(model.get(spec.name), spec);
    }
  }

  const listeners = [["change:controls", refresh]];
  for (const [name, entry] of shown) listeners.push([`change:${name}`, () => entry.show(model.get(name), entry.spec)]);
  listeners.forEach(([event, listener]) => model.on(event, listener));
  refresh();
  return { section, dispose: () => listeners.forEach(([event, listener]) => model.off(event, listener)) };
}

/** Buttons of the actions of one place, blocked with a reason where they can do nothing. */
function actionRow(model, place, take) {
  const row = element("div", { className: "nbquant-actions", role: "group", "aria-label": "Actions" });
  const buttons = new Map();
  for (const { name, label, tooltip, place: its } of model.get("actions")) {
    if (its !== place) continue;
    const button = element("button", { type: "button", textContent: label, title: tooltip, "data-action": name });
    button.addEventListener("click", () => take(name));
    buttons.set(name, { button, tooltip });
    row.append(button);
  }
  function refresh() {
    const blocked = model.get("blocked");
    for (const [name, { button, tooltip }] of buttons) {
      put(button, "disabled", Boolean(blocked[name]));
      put(button, "title", blocked[name] ? `${tooltip}. Not now: ${blocked[name]}` : tooltip);
    }
  }
  model.on("change:blocked", refresh);
  refresh();
  return { row, dispose: () => model.off("change:blocked", refresh) };
}
