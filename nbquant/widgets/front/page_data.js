// Tables of a page without a kernel, unpacked.

/** What view/export.py packed: JSON, and bytes that it points to. */
async function unpacked(text) {
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  const whole = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  const size = Number(new DataView(whole).getBigUint64(0, true));
  const from = 8 + Math.ceil(size / 8) * 8;
  const view = (_, value) => (value?.$ ? new DataView(whole, from + value.$[0], value.$[1]) : value);
  return JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 8, size)), view);
}

/** Clusters as live.js has them. */
function unpackedClusters({ start, scale, centre, count, length, mean_h, intervals, threshold }) {
  const plain = { start: decoded(start), count: decoded(count), mean_h };
  plain.centre = Float32Array.from(decoded(centre), (c) => c * scale);
  plain.length = Float32Array.from(decoded(length), (bits) => bits / 256);
  plain.threshold = null;
  if (threshold) plain.threshold = decoded(threshold);
  else if (intervals) plain.threshold = plain.centre.map((c, i) => (c + plain.centre[i + 1]) / 2);
  return plain;
}
