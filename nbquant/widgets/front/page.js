// Takes the kernel's part in a page of its own: answers from tables what ExplorerState would compute.

const SETTINGS = ["layers", "method", "weighted", "coding", "per_layer", "pinned_zero"];
const QUANTITY_NAMES = ["ratio", "rate", "levels", "lmbda", "step"];
const WITHOUT_KERNEL = "this page has no kernel; open a notebook and call nq.explore(model, data)";

/** A widget's model without a kernel. */
class PageModel {
  constructor(data) {
    this.data = data;
    this.state = { ...data.traits };
    this.listeners = new Map();
    this.changed = new Set();
    this.past = [];
    this.future = [];
    this.target = { driver: this.state.driver, value: this.state[this.state.driver] };
    this.tables = new Map();
    this.pins = [];
    this.settings = this.settingsNow();
    this.show();
    this.showHistory();
  }

  get(name) {
    return this.state[name];
  }

  /** Take a value of the front end's; it takes effect when it is saved. */
  set(name, value) {
    if (this.state[name] === value) return;
    this.changed.add(name);
    this.tell(name, value);
  }

  /** Give the front end a value, as the kernel would. */
  tell(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.emit(`change:${name}`);
  }

  on(event, listener) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(listener);
  }

  off(event, listener) {
    this.listeners.get(event)?.delete(listener);
  }

  emit(event, ...values) {
    for (const listener of [...(this.listeners.get(event) ?? [])]) listener(...values);
  }

  /** What the user changed takes effect, as in the kernel. */
  save_changes() {
    const changed = new Set(this.changed);
    this.changed.clear();
    this.tell("problem", "");
    if (changed.has("layers_table_checked")) this.take({ layers: this.checkedLayers() });
    if (changed.has("layers_table_focused")) this.focusLayer(this.state.layers_table_focused);
    if (changed.has("focus")) this.showFocus();
    if (changed.has("log_count") || changed.has("bars")) this.showHistogram();
    if (changed.has("drive")) this.takeDrive(this.state.drive);
    if (changed.has("moved")) this.takeMoved(this.state.moved);
    if (changed.has("clicked")) this.takeClick(this.state.clicked);
    if (changed.has("region") && isRegion(this.state.region)) this.refuse("a region of weights");
    if (changed.has("pins_table_pressed")) this.takePress(this.state.pins_table_pressed);
    if (changed.has("pins_table_focused")) this.compare(Number(this.state.pins_table_focused || -1));
    if (changed.has("compared")) this.compare(this.state.compared);
    if (changed.has("pins_table_hovered")) this.showGhosts();
    const settings = SETTINGS.filter((name) => changed.has(name) && name !== "layers");
    if (settings.length) this.take(Object.fromEntries(settings.map((name) => [name, this.state[name]])));
    const driver = QUANTITY_NAMES.find((name) => changed.has(name));
    if (driver) this.drive(driver, this.state[driver]);
  }

  send(message) {
    if (message.kind === "act" && message.name === "undo") this.travel(this.past, this.future);
    else if (message.kind === "act" && message.name === "redo") this.travel(this.future, this.past);
    else if (message.kind === "act" && message.name === "pin") this.pin();
    else this.refuse("this");
  }

  refuse(what) {
    this.tell("problem", `${what} needs the weights, but ${WITHOUT_KERNEL}.`);
  }

  // Settings.

  settingsNow() {
    return Object.fromEntries(SETTINGS.map((name) => [name, this.state[name]]));
  }

  /** All layers, or the one whose box was clicked: the page has no curves of others. */
  checkedLayers() {
    const checked = new Set(this.state.layers_table_checked);
    const isChecked = (layer) => checked.has(this.data.labels[layer]);
    if (this.first().every(isChecked)) return this.first();
    const clicked = this.first().filter((layer) => isChecked(layer) !== this.settings.layers.includes(layer));
    const alone = clicked.length === 1 && !this.settings.layers.every((layer) => clicked.includes(layer));
    return alone ? clicked : this.first();
  }

  /** The layers that the page was made with. */
  first() {
    return this.data.traits.layers;
  }

  key(settings, pair = null) {
    const { options } = this.data.methods[settings.method];
    const own = (name, usual) => (options.includes(name) || !pair ? settings[name] : usual);
    const layers = settings.layers;
    const shared = [
      JSON.stringify(layers),
      settings.coding,
      String(layers.length > 1 && Boolean(own("per_layer", false))),
      String(Boolean(settings.pinned_zero)),
    ];
    return [...shared, ...(pair ?? [])].join("|");
  }

  /** The chosen curve, or another one. */
  table(settings, method = settings.method, weighted = settings.weighted) {
    let found = this.data.tables[this.key(settings, [method, String(weighted)])];
    while (typeof found === "string") found = this.data.tables[found];
    return found;
  }

  /** Change settings, or say why not. */
  take(changes, target = this.target) {
    const now = { ...this.settings, ...changes };
    if (changes.method) {
      const [old, fresh] = [this.data.methods[this.settings.method], this.data.methods[changes.method]];
      for (const [name, value] of Object.entries(fresh.defaults)) {
        if (!(name in old.defaults) || this.settings[name] === old.defaults[name]) now[name] = value;
      }
    }
    if (!this.table(now)) {
      const some = `${this.first().length > 1 ? "all its layers or one of them" : "its layer"}`;
      this.tell("problem", `This page holds curves of ${some}; for others ${WITHOUT_KERNEL}.`);
      this.show();
      return;
    }
    this.past.push({ settings: this.settings, target: this.target });
    this.future.length = 0;
    this.settings = now;
    this.target = target;
    this.show();
    this.showHistory();
  }

  travel(from, to) {
    const last = from.pop();
    if (!last) return;
    to.push({ settings: this.settings, target: this.target });
    ({ settings: this.settings, target: this.target } = last);
    this.show();
    this.showHistory();
  }

  showHistory() {
    const blocked = { ...this.data.traits.blocked };
    if (!this.past.length) blocked.undo = "nothing was changed";
    if (!this.future.length) blocked.redo = "nothing was undone";
    this.tell("blocked", blocked);
  }

  // The point.

  takeDrive({ driver, value, serial }) {
    if (driver) this.drive(driver, value, serial);
  }

  drive(driver, value, serial = this.state.now.serial ?? 0) {
    const table = this.state.table;
    if (findPoint(table, driver, value) < 0) {
      const [low, high] = boundsOf(table, driver);
      this.tell("problem", `${driver} must be ${significant(low)} to ${significant(high)} on this curve, but is ${significant(value)}.`);
      this.showPoint(serial);
      return;
    }
    const last = this.past.at(-1);
    if (last?.driven !== driver || last.settings !== this.settings) {
      this.past.push({ settings: this.settings, target: this.target, driven: driver }); // a drag is one step
    }
    this.future.length = 0;
    this.target = { driver, value };
    this.showPoint(serial);
    this.showHistory();
  }

  takeMoved({ index, serial }) {
    if (index !== undefined) this.refuse("What a moved centre costs");
    this.showPoint(serial);
  }

  takeClick({ figure, curve, x }) {
    if (this.state.kinds[figure] !== "curves" || !this.data.pairs[curve]) return;
    const [method, weighted] = this.data.pairs[curve];
    this.take({ method, weighted }, { driver: "ratio", value: x * (1 - 1e-6) });
  }

  show() {
    for (const [name, value] of Object.entries(this.settings)) this.tell(name, value);
    this.tell("layers_table_checked", this.settings.layers.map((layer) => this.data.labels[layer]));
    this.showOptions();
    const parameters = Object.keys(this.data.groups).filter((name) => this.settings.layers.includes(this.data.groups[name]));
    this.tell("parameters", parameters);
    if (!parameters.includes(this.state.focus)) this.tell("focus", parameters[0]);
    this.showFigure("curves", this.data.figures[this.key(this.settings)]);
    this.showFocus();
  }

  showOptions() {
    const { options } = this.data.methods[this.settings.method];
    this.tell(
      "controls",
      this.state.controls.map((control) => {
        if (control.place === "method" && control.name !== "method") {
          return { ...control, disabled: options.includes(control.name) ? "" : "this method has no such option" };
        }
        if (control.name === "compared") return { ...control, options: [["no pin", -1], ...this.pins.map(pinAsOption)] };
        return control.name === "focus" ? { ...control, options: this.parametersAsOptions() } : control;
      }),
    );
  }

  parametersAsOptions() {
    return Object.keys(this.data.groups)
      .filter((name) => this.settings.layers.includes(this.data.groups[name]))
      .map((name) => [name, name]);
  }

  focusLayer(label) {
    const name = Object.keys(this.data.groups).find((each) => this.data.labels[this.data.groups[each]] === label);
    if (name && this.settings.layers.includes(this.data.groups[name])) this.tell("focus", name);
    this.showFocus();
  }

  /** What depends on the parameter in focus: its map, and the group of clusters. */
  showFocus() {
    this.tell("layers_table_focused", this.data.labels[this.data.groups[this.state.focus]]);
    this.showFigure("map", this.data.maps[this.state.focus]);
    this.showTable();
    this.showHistogram();
    this.showPoint();
  }

  showFigure(kind, figure) {
    const name = this.state.names.find((each) => this.state.kinds[each] === kind);
    if (!name || !figure || this.state[name]?.data === figure.data) return;
    const revision = (this.state[name]?.revision ?? 0) + 1;
    this.tell(name, { data: figure.data, layout: figure.layout, revision });
  }

  group(groups) {
    const layer = this.data.groups[this.state.focus];
    return layer in groups ? layer : Object.keys(groups)[0];
  }

  showTable() {
    const found = this.table(this.settings);
    const group = this.group(found.groups);
    let table = this.tables.get(found.groups[group]);
    if (!table) {
      const { groups, ...shared } = found;
      const column = (value) => Float64Array.from(decoded(value));
      for (const name of ["ratio", "rate", "loss", "value", "levels"]) shared[name] = column(shared[name]);
      const ledger = Object.fromEntries(Object.entries(shared.ledger).map(([part, bits]) => [part, column(bits)]));
      table = { ...shared, ledger, coding: this.settings.coding, ...unpackedClusters(groups[group]) };
      this.tables.set(groups[group], table);
    }
    this.tell("table", table);
    const { driver } = this.target;
    if (!["ratio", "rate", "levels", table.parameter].includes(driver)) {
      this.target = { driver: "ratio", value: this.state.now.ratio };
    }
  }

  showHistogram() {
    const histograms = this.data.histograms[JSON.stringify(this.settings.layers)];
    const group = this.group(this.table(this.settings).groups);
    this.showFigure("clusters", histograms[group][this.state.bars === "h" ? 1 : 0][this.state.log_count ? 1 : 0]);
  }

  showPoint(serial = this.state.now.serial ?? 0) {
    const { table } = this.state;
    let i = findPoint(table, this.target.driver, this.target.value);
    if (i < 0) i = table.loss.indexOf(Math.min(...table.loss)); // another curve does not reach it
    const now = { ...pointAt(table, i, { ...this.target, serial }), note: this.state.now.note };
    this.tell("now", now);
    const own = { ratio: now.ratio, rate: now.rate, levels: now.levels, lmbda: 0, step: 0, [now.parameter]: now.value };
    for (const name of QUANTITY_NAMES) this.tell(name, name === this.target.driver ? this.target.value : own[name]);
    this.tell("driver", this.target.driver);
    this.showFacts(now);
    this.showCodebook(now);
    this.showPins();
  }

  showFacts(now) {
    const bits = Object.values(now.ledger).reduce((sum, each) => sum + each, 0);
    const kept = this.data.traits.facts.filter(({ label }) => label === "not quantized");
    const before = this.state.table.source_bits + (now.ledger.unquantized ?? 0);
    this.tell("facts", [
      { label: "measured accuracy", value: "–", note: "needs a kernel" },
      { label: "file", value: `≈ ${bytesText(bits / 8)}`, note: `${(before / Math.max(bits, 1)).toFixed(1)}×` },
      ...kept,
    ]);
    const method = this.state.controls.find(({ name }) => name === "method").options.find(([, value]) => value === now.method);
    const code = this.state.controls.find(({ name }) => name === "coding").options.find(([, value]) => value === this.settings.coding);
    this.tell("summary", `${method[0]}, ${code[0]}, ${count(now.levels)} levels: ${QUANTITIES.ratio.text(now.ratio)}×, ${QUANTITIES.rate.text(now.rate)} bit/weight, predicted loss +${significant(now.loss)}`);
  }

  showCodebook({ centre, count: counts, length }) {
    const total = counts.reduce((sum, each) => sum + each, 0);
    const bits = length.reduce((sum, each, j) => sum + each * counts[j], 0) || 1;
    const column = (of) => Array.from(centre, (_, j) => of(j));
    const none = column(() => null);
    const known = { key: column(String), centre: Array.from(centre), count: Array.from(counts), codeword: none, share_of_loss: none };
    known.share = column((j) => counts[j] / total);
    known.codeword_length = Array.from(length);
    known.share_of_rate = column((j) => (length[j] * counts[j]) / bits);
    this.tell("codebook_table_rows", known);
  }
}

Object.assign(PageModel.prototype, PAGE_PINS);

/** A number of bytes as people say it, as size_text in view/readout.py. */
function bytesText(size) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (size < 999.5 || unit === "GB") return unit === "B" || size >= 100 ? `${size.toFixed(0)} ${unit}` : `${size.toFixed(1)} ${unit}`;
    size /= 1000;
  }
}

async function startPage(el, text) {
  const model = new PageModel(await unpacked(text));
  el.replaceChildren();
  window.nbquantModel = model;
  cockpit({ model, el });
}
