// Arrays as figure_panel.py sends them: {dtype, bdata}, the bytes beside the JSON.

const ARRAYS = {
  i1: Int8Array,
  u1: Uint8Array,
  i2: Int16Array,
  u2: Uint16Array,
  i4: Int32Array,
  u4: Uint32Array,
  f4: Float32Array,
  f8: Float64Array,
};

/** Copy the bytes of a view: in a message they start where no typed array could. */
const copied = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);

/** A value with its arrays as typed arrays. */
function decoded(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(decoded);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return value; // has been decoded
  if (value.bdata !== undefined) {
    return new ARRAYS[value.dtype](ArrayBuffer.isView(value.bdata) ? copied(value.bdata) : value.bdata);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decoded(item)]));
}

/** Make an element; `settings` are its properties, but for `data-`, `aria-` and `role`, which are attributes. */
function element(tag, settings = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(settings)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Set a property only where it changes: an equal text still costs a layout. */
function put(target, key, value) {
  if (target[key] !== value) target[key] = value;
}
