// Pins of a page without a kernel, and what they are compared with: methods of PageModel.

const pinAsOption = ({ label, now }, i) => [`${label}: ${now.method} ${now.ratio.toFixed(1)}×`, i];

const PAGE_PINS = {
  pin() {
    const { now } = this.state;
    const used = new Set(this.pins.map(({ label }) => label));
    const label = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"].find((letter) => !used.has(letter)) ?? String(this.pins.length + 1);
    const bits = Object.values(now.ledger).reduce((sum, each) => sum + each, 0);
    this.pins.push({ label, settings: this.settings, target: this.target, now, bytes: bits / 8 });
    this.showPins();
    this.showOptions();
  },

  showPins() {
    const { now } = this.state;
    const bytes = Object.values(now.ledger).reduce((sum, each) => sum + each, 0) / 8;
    const rows = this.pins.map((pin, i) => ({
      key: String(i),
      label: pin.label,
      method: pin.now.method,
      ratio: pin.now.ratio,
      d_ratio: pin.now.ratio / now.ratio - 1,
      rate: pin.now.rate,
      levels: pin.now.levels,
      loss: pin.now.loss,
      d_loss: now.loss > 0 ? pin.now.loss / now.loss - 1 : null,
      accuracy: null,
      d_accuracy: null,
      bytes: pin.bytes,
      d_bytes: pin.bytes / bytes - 1,
      go: true,
      remove: true,
    }));
    this.showVersus();
    const names = ["key", ...this.state.pins_table_columns.map(({ name }) => name)];
    this.tell("pins_table_rows", Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name] ?? null)])));
  },

  compare(place) {
    this.tell("compared", place);
    this.tell("pins_table_focused", place >= 0 ? String(place) : "");
    this.showGhosts();
    this.showVersus();
  },

  /** As versus() in view/readout.py, without what needs the weights. */
  showVersus() {
    const { now, compared } = this.state;
    const pin = this.pins[compared];
    if (!pin) return this.tell("versus", []);
    const bytes = Object.values(now.ledger).reduce((sum, each) => sum + each, 0) / 8;
    const signed = (value, text) => `${value < 0 ? "−" : "+"}${text(Math.abs(value))}`;
    const share = (value, of, digits) => (of > 0 ? signed(value / of - 1, (v) => `${(100 * v).toFixed(digits)}%`) : "");
    const ratio = QUANTITIES.ratio.text;
    this.tell("versus", [
      { label: "bytes", value: signed(bytes - pin.bytes, count), note: share(bytes, pin.bytes, 2) },
      { label: "predicted loss", value: signed(now.loss - pin.now.loss, significant), note: share(now.loss, pin.now.loss, 1) },
      {
        label: "ratio",
        value: `${signed(now.ratio - pin.now.ratio, ratio)}×`,
        note: `${ratio(now.ratio)}× against ${ratio(pin.now.ratio)}×`,
      },
    ]);
  },

  showGhosts() {
    const pin = this.pins[this.state.pins_table_hovered ? Number(this.state.pins_table_hovered) : this.state.compared];
    this.tell("ghosts", pin ? [{ label: pin.label, centre: pin.now.centre }] : []);
  },

  takePress({ key, action }) {
    const pin = this.pins[Number(key)];
    if (!pin) return;
    if (action === "go") {
      this.take(pin.settings, pin.target);
    } else {
      this.pins = this.pins.filter((each) => each !== pin);
      this.compare(-1);
      this.showPins();
      this.showOptions();
    }
  },
};
