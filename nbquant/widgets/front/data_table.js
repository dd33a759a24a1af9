// Draws a DataTable. Rows are elements that outlive an update, so that focus, scrolling and a pressed key do too.

const MOST_ROWS = 500; // rows drawn; the CSV file has all
const DASH = "–";
// Notebook 7 takes arrows and Enter for its own before they get here, unless the very element with the focus says this.
const KEEPS_KEYS = { "data-lm-suppress-shortcuts": "true" };

/** A number as Python's format() would write it, as far as [+][,][.digits][dfge%] goes, halves away from zero. */
function numeral(value, format) {
  const [, plus, comma, digits, type] = /^(\+?)(,?)(?:\.(\d+))?([dfge%])$/.exec(format);
  const grouped = (x, places) =>
    x.toLocaleString("en-US", {
      minimumFractionDigits: places,
      maximumFractionDigits: places,
      useGrouping: Boolean(comma),
      signDisplay: "negative", // none before what rounds to zero
    });
  const places = digits === undefined ? 6 : Number(digits);
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  let text;
  if (type === "d") text = grouped(value, 0);
  else if (type === "f") text = grouped(value, places);
  else if (type === "%") text = `${grouped(100 * value, places)} %`;
  else if (type === "e") text = value.toExponential(places);
  else {
    const precision = Math.max(places, 1);
    const [mantissa, exponent] = value.toExponential(precision - 1).split("e");
    const plain = Number(exponent) >= -4 && Number(exponent) < precision;
    const trimmed = (t) => (t.includes(".") ? t.replace(/\.?0+$/, "") : t);
    text = plain ? trimmed(value.toFixed(precision - 1 - Number(exponent))) : `${trimmed(mantissa)}e${exponent}`;
  }
  const signed = plus && !text.startsWith("-") ? `+${text}` : text;
  return signed.replace("e+", "e").replaceAll("-", "−");
}

const isNumeric = (column) => column.kind === "number" || column.kind === "bar";
const numeric = (value) => (value === null || value === undefined || value === "" ? NaN : Number(value));

function shown(value, column) {
  if (isNumeric(column)) return Number.isNaN(numeric(value)) ? DASH : numeral(numeric(value), column.format);
  return value === null || value === undefined ? DASH : String(value);
}

/** Order of rows by a column; equals stay as they were given, and what is missing comes last either way. */
function order(count, values, column, descending) {
  const rows = Array.from({ length: count }, (_, i) => i);
  if (!values) return rows;
  const of = isNumeric(column) ? numeric : column.kind === "check" ? (v) => (v ? 0 : 1) : (v) => v ?? "";
  const sign = descending ? -1 : 1;
  const compare = typeof of(values[0]) === "string" ? new Intl.Collator("en", { numeric: true }).compare : (a, b) => a - b;
  const missing = (v) => v === "" || Number.isNaN(v);
  const keys = values.map(of);
  return rows.sort((i, j) => {
    const [a, b] = [keys[i], keys[j]];
    if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
    return sign * compare(a, b) || i - j;
  });
}

/** The traits of one table among those of a widget, as DataTable.join names them. */
function tableModel(model, prefix) {
  const named = (event) => event.replace("change:", `change:${prefix}_`);
  return {
    get: (name) => model.get(`${prefix}_${name}`),
    set: (name, value) => model.set(`${prefix}_${name}`, value),
    save_changes: () => model.save_changes(),
    on: (event, listener) => model.on(named(event), listener),
    off: (event, listener) => model.off(named(event), listener),
  };
}

let instances = 0;

function dataTable({ model, el }) {
  const id = `nbquant-table-${(instances += 1)}`;
  const caption = element("div", { className: "nbquant-table-caption", id });
  const download = element("button", { type: "button", title: "Download the rows as they are sorted, in full precision" });
  download.textContent = "CSV";
  const head = element("thead");
  const body = element("tbody");
  const table = element("table", { className: "nbquant-table-grid", role: "grid", "aria-labelledby": id }, head, body);
  const scroll = element("div", { className: "nbquant-table-scroll" }, table);
  const note = element("div", { className: "nbquant-table-note" });
  const root = element(
    "div",
    { className: "nbquant-table" },
    element("div", { className: "nbquant-table-head" }, caption, download),
    scroll,
    note,
  );
  el.append(root);

  const lines = new Map(); // key -> { row, cells, values }
  let columns = [];
  let active = ""; // key of the row that Tab reaches
  let frame = 0;
  const pending = new Set();

  const keys = () => model.get("rows")[model.get("key")] ?? [];

  function save(name, value) {
    model.set(name, value);
    model.save_changes();
  }

  function check(key, on) {
    const now = new Set(model.get("checked"));
    if (on ?? !now.has(key)) now.add(key);
    else now.delete(key);
    save("checked", keys().filter((k) => now.has(k)));
  }

  function sortBy(name) {
    const { name: before, descending } = model.get("sorted_by");
    if (before !== name) save("sorted_by", { name, descending: false });
    else save("sorted_by", descending ? {} : { name, descending: true });
  }

  function sorted() {
    const { name, descending } = model.get("sorted_by");
    const column = columns.find((c) => c.name === name);
    const all = keys();
    if (!column) return order(all.length);
    const checked = new Set(model.get("checked"));
    const values = column.kind === "check" ? all.map((key) => checked.has(key)) : model.get("rows")[name];
    return order(all.length, values, column, descending);
  }

  // Header.

  function drawHeader() {
    columns = model.get("columns");
    lines.clear();
    body.replaceChildren();
    const cells = columns.map((column) => {
      const cell = element("th", { scope: "col", "data-kind": column.kind, "data-column": column.name });
      if (column.tooltip) cell.title = column.tooltip;
      if (column.kind === "check") {
        const box = element("input", { type: "checkbox", "aria-label": `${column.label}: all` });
        box.addEventListener("change", () => save("checked", box.checked ? keys() : []));
        cell.append(box);
      } else if (column.kind === "action") {
        cell.append(element("span", { className: "nbquant-unseen", textContent: column.label }));
      } else {
        const button = element("button", { type: "button" }, column.label);
        if (column.unit) button.append(element("span", { className: "nbquant-table-unit" }, ` [${column.unit}]`));
        button.addEventListener("click", () => sortBy(column.name));
        cell.append(button);
      }
      return cell;
    });
    head.replaceChildren(element("tr", {}, ...cells));
  }

  function markHeader() {
    const { name, descending } = model.get("sorted_by");
    for (const cell of head.querySelectorAll("th")) {
      if (cell.dataset.column === name) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  // Rows.

  function newLine(key) {
    const row = element("tr", { ...KEEPS_KEYS, "data-key": key, tabIndex: -1 });
    const title = columns.findIndex((column) => column.kind === "text");
    const cells = columns.map((column, i) => {
      const cell = element(i === title ? "th" : "td", { "data-kind": column.kind, "data-column": column.name });
      if (i === title) cell.scope = "row";
      if (column.format === "code") cell.dataset.format = "code";
      if (column.kind === "check") {
        const name = `${column.label} ${key}`;
        const box = element("input", { ...KEEPS_KEYS, type: "checkbox", tabIndex: -1, "aria-label": name });
        box.addEventListener("change", () => check(key, box.checked));
        cell.append(box);
      }
      return cell;
    });
    row.append(...cells);
    return { row, cells, values: columns.map(() => undefined) };
  }

  function fillCell(cell, column, value, key) {
    if (column.kind === "check") return;
    if (column.kind === "action") {
      cell.replaceChildren();
      if (!value) return;
      const text = typeof value === "string" ? value : column.label;
      const button = element("button", { ...KEEPS_KEYS, type: "button", tabIndex: key === active ? 0 : -1 }, text);
      button.setAttribute("aria-label", `${text} ${key}`);
      if (column.tooltip) button.title = column.tooltip;
      button.addEventListener("click", () => {
        const serial = (model.get("pressed").serial ?? 0) + 1;
        save("pressed", { key, action: column.name, serial });
      });
      cell.append(button);
      return;
    }
    cell.textContent = shown(value, column);
    if (column.kind === "text") cell.title = cell.textContent;
    if (column.kind === "bar") {
      cell.style.setProperty("--nbquant-share", String(Math.min(Math.max(numeric(value) || 0, 0), 1)));
    }
  }

  function drawRows() {
    const all = keys();
    const rows = model.get("rows");
    const drawn = sorted().slice(0, MOST_ROWS);
    const focused = body.getRootNode().activeElement; // in marimo a widget has a root of its own
    const had = body.contains(focused) ? focused : null;
    const place = had ? [...body.children].indexOf(had.closest("tr")) : -1;
    const kept = new Set(drawn.map((i) => all[i]));
    for (const [key, { row }] of lines) {
      if (kept.has(key)) continue;
      row.remove();
      lines.delete(key);
    }
    drawn.forEach((i, at) => {
      const key = all[i];
      if (!lines.has(key)) lines.set(key, newLine(key));
      const { row, cells, values } = lines.get(key);
      columns.forEach((column, c) => {
        const value = rows[column.name]?.[i] ?? null;
        if (value === values[c]) return;
        values[c] = value;
        fillCell(cells[c], column, value, key);
      });
      if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
    });
    table.setAttribute("aria-rowcount", String(all.length + 1));
    note.textContent =
      all.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${all.length.toLocaleString("en-US")} rows; the CSV file has all.` : "";
    if (!lines.has(active)) {
      const at = Math.min(Math.max(place, 0), body.children.length - 1);
      activate(lines.has(model.get("focused")) ? model.get("focused") : (body.children[at]?.dataset.key ?? ""));
    }
    // A row that moves, or goes, takes the keyboard's focus along.
    if (had && body.getRootNode().activeElement !== had) {
      (had.isConnected ? had : lines.get(active)?.row)?.focus({ preventScroll: true });
    }
  }

  /** Make a row the one that Tab reaches, with all in it. */
  function activate(key) {
    const reach = (line, index) => {
      line.row.tabIndex = index;
      line.row.querySelectorAll("input, button").forEach((control) => (control.tabIndex = index));
    };
    if (lines.has(active)) reach(lines.get(active), -1);
    active = key;
    if (lines.has(active)) reach(lines.get(active), 0);
  }

  function markRows() {
    const [focused, hovered] = [model.get("focused"), model.get("hovered")];
    const checked = new Set(model.get("checked"));
    const at = columns.findIndex((column) => column.kind === "check");
    for (const [key, { row, cells }] of lines) {
      row.setAttribute("aria-selected", String(key === focused));
      row.toggleAttribute("data-hovered", key === hovered);
      if (at >= 0) cells[at].firstChild.checked = checked.has(key);
    }
    const box = head.querySelector("input");
    if (box) {
      const count = keys().filter((key) => checked.has(key)).length;
      box.checked = count > 0 && count === keys().length;
      box.indeterminate = count > 0 && count < keys().length;
    }
  }

  /** Scroll the table, and not the page, until a row is seen. */
  function reveal(key) {
    const row = lines.get(key)?.row;
    if (!row) return;
    const top = row.offsetTop - head.offsetHeight;
    const bottom = row.offsetTop + row.offsetHeight - scroll.clientHeight;
    scroll.scrollTop = Math.max(Math.min(scroll.scrollTop, top), bottom);
  }

  const draw = {
    columns: () => {
      drawHeader();
      markHeader();
      drawRows();
      markRows();
    },
    rows: () => {
      drawRows();
      markRows();
    },
    marks: markRows,
    caption: () => {
      caption.textContent = model.get("caption");
    },
  };

  function drawPending() {
    frame = 0;
    const parts = [...pending];
    pending.clear();
    // The header first, as rows are made after it.
    for (const part of Object.keys(draw)) if (parts.includes(part)) draw[part]();
  }

  function later(part) {
    pending.add(part);
    frame ||= requestAnimationFrame(drawPending);
  }

  // Mouse and keys.

  const keyOf = (event) => event.target.closest?.("tbody tr")?.dataset.key;

  function hover(key) {
    if (model.get("hovered") !== key) save("hovered", key);
  }

  function go(key) {
    activate(key);
    lines.get(key).row.focus({ preventScroll: true });
    reveal(key);
  }

  body.addEventListener("click", (event) => {
    const key = keyOf(event);
    if (key === undefined) return;
    activate(key);
    if (event.target.closest("input, button")) return;
    lines.get(key).row.focus({ preventScroll: true });
    save("focused", key);
  });
  body.addEventListener("pointerover", (event) => hover(keyOf(event) ?? ""));
  body.addEventListener("pointerleave", () => hover(""));
  body.addEventListener("focusin", (event) => {
    const key = keyOf(event);
    activate(key);
    hover(key);
  });
  body.addEventListener("focusout", (event) => {
    if (!body.contains(event.relatedTarget)) hover("");
  });
  body.addEventListener("keydown", (event) => {
    const key = keyOf(event);
    if (key === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = [...body.children].map((row) => row.dataset.key);
    const at = all.indexOf(key);
    const page = Math.max(Math.floor(scroll.clientHeight / (lines.get(key).row.offsetHeight || 1)) - 2, 1);
    const to = {
      ArrowUp: at - 1,
      ArrowDown: at + 1,
      PageUp: at - page,
      PageDown: at + page,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    const inControl = event.target.closest("input, button");
    if (to !== undefined) go(all[Math.min(Math.max(to, 0), all.length - 1)]);
    else if (event.key === "Enter" && !inControl) save("focused", key);
    else if (event.key === " " && !inControl && columns.some((column) => column.kind === "check")) check(key);
    else if (event.key !== " " || inControl) return;
    event.preventDefault();
  });

  download.addEventListener("click", () => {
    const quoted = (value) => {
      const text = String(value ?? "");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const told = columns.filter((column) => column.kind !== "action");
    const [all, rows, checked] = [keys(), model.get("rows"), new Set(model.get("checked"))];
    const value = (column, i) => (column.kind === "check" ? checked.has(all[i]) : rows[column.name]?.[i]);
    const csv = [
      told.map((column) => quoted(column.unit ? `${column.label} [${column.unit}]` : column.label)),
      ...sorted().map((i) => told.map((column) => quoted(value(column, i)))),
    ];
    const file = new Blob([csv.map((line) => `${line.join(",")}\r\n`).join("")], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(file) });
    const name = model.get("caption").toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_+|_+$/g, "");
    link.download = `nbquant_${name || "table"}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });

  const listeners = [
    ["change:columns", () => later("columns")],
    ["change:rows", () => later("rows")],
    ["change:checked", () => later(model.get("sorted_by").name ? "rows" : "marks")],
    ["change:hovered", () => later("marks")],
    [
      "change:focused",
      () => {
        const key = model.get("focused");
        later("marks");
        if (lines.has(key) && !root.contains(root.getRootNode().activeElement)) activate(key);
        reveal(key);
      },
    ],
    [
      "change:sorted_by",
      () => {
        markHeader();
        later("rows");
      },
    ],
    ["change:caption", () => later("caption")],
  ];
  listeners.forEach(([event, listener]) => model.on(event, listener));
  Object.keys(draw).forEach((part) => pending.add(part));
  drawPending();
  reveal(model.get("focused"));

  return () => {
    cancelAnimationFrame(frame);
    listeners.forEach(([event, listener]) => model.off(event, listener));
    root.remove();
  };
}
