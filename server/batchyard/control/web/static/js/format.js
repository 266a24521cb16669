// Values as people read them. The API writes 64-bit integers, NaN and infinities as strings (protobuf's JSON mapping).

const NONE = "–";
const SPACE = "\u00a0"; // between a number and its unit: they stay on one line

export const integer = (value) => (value === undefined || value === null ? NONE : Number(value).toLocaleString("en-US"));

/** A number out of the API, or null where there is none. */
export function number(value) {
  return value === undefined || value === null ? null : Number(value);
}

/** A loss: four decimals near 1, a power of ten far from it. */
export function loss(value) {
  const n = number(value);
  if (n === null) return NONE;
  if (!Number.isFinite(n)) return String(n);
  const size = Math.abs(n);
  return size !== 0 && (size < 0.001 || size >= 10000) ? scientific(n) : n.toFixed(size < 10 ? 4 : 2);
}

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** 3.10 × 10⁻⁶. */
export function scientific(value) {
  const [digits, power] = Number(value).toExponential(2).replace("+", "").split("e");
  return power === undefined ? digits : `${digits}${SPACE}×${SPACE}10${[...power].map((sign) => SUPERSCRIPT[sign]).join("")}`;
}

/** A share of 1 as per cent. */
export function percent(value, digits = 2) {
  const n = number(value);
  return n === null || !Number.isFinite(n) ? NONE : `${(n * 100).toFixed(digits)}${SPACE}%`;
}

/** Three significant digits, grouped. */
export function rate(value) {
  const n = number(value);
  if (n === null || !Number.isFinite(n)) return NONE;
  return n >= 100 ? Math.round(n).toLocaleString("en-US") : n.toPrecision(3);
}

/** A short decimal number for statistics. */
export function decimal(value, digits = 2) {
  const n = number(value);
  if (n === null) return NONE;
  if (!Number.isFinite(n)) return String(n);
  const text = Math.abs(n).toFixed(digits);
  return n < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** Seconds as 0.8 s, 12 s, 3 min 05 s, 2 h 10 min, 4 d 3 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)}${SPACE}s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole}${SPACE}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}${SPACE}min${SPACE}${String(whole % 60).padStart(2, "0")}${SPACE}s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)}${SPACE}h${SPACE}${String(minutes % 60).padStart(2, "0")}${SPACE}min`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)}${SPACE}d${SPACE}${hours % 24}${SPACE}h`;
}

/** Milliseconds and below, for the time of a step. */
export function shortTime(seconds) {
  const n = number(seconds);
  if (n === null || !Number.isFinite(n)) return NONE;
  if (n >= 0.9995) return `${n.toPrecision(3)}${SPACE}s`;
  const [size, unit] = n >= 0.0009995 ? [1e-3, "ms"] : [1e-6, "µs"]; // what rounds to 1,000 of a unit is 1 of the next
  return `${n === 0 ? 0 : (n / size).toPrecision(3)}${SPACE}${unit}`;
}

/** The same for axes: no more digits than a round number needs. */
export function axisTime(seconds) {
  const [size, unit] = seconds >= 1 ? [1, "s"] : seconds >= 0.001 ? [1e-3, "ms"] : [1e-6, "µs"];
  return seconds === 0 ? "0" : `${+(seconds / size).toPrecision(3)}${SPACE}${unit}`;
}

/** A share of 1 as per cent, for axes. */
export const axisShare = (value) => `${+(value * 100).toPrecision(6)}${SPACE}%`;

/** Bytes as 1.5 MB. */
export function bytes(value) {
  const n = Number(value);
  const [size, unit] = n >= 1e9 ? [1e9, "GB"] : n >= 1e6 ? [1e6, "MB"] : n >= 1e3 ? [1e3, "kB"] : [1, "B"];
  return `${+(n / size).toPrecision(3)}${SPACE}${unit}`;
}

/** The API's Duration ("12.5s") in seconds, or null. */
export const seconds = (text) => (text ? Number.parseFloat(text) : null);

/** Seconds between two of the API's timestamps; the second defaults to now. */
export function between(from, to) {
  if (!from) return null;
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}

/** Seconds on an axis: 90 s, 2.5 min, 4 h. */
export function elapsed(value) {
  const [size, unit] = value < 120 ? [1, "s"] : value < 7200 ? [60, "min"] : [3600, "h"];
  return `${+(value / size).toPrecision(3)}${SPACE}${unit}`;
}

/** Seconds since the epoch as the time of day, for axes. */
export const hour = (at, withSeconds) => (withSeconds ? CLOCK : HOUR).format(new Date(at * 1000));

/** How long ago: one unit. */
export function age(timestamp) {
  const s = between(timestamp);
  if (s === null) return NONE;
  if (s < 60) return `${Math.max(0, Math.floor(s))}${SPACE}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${SPACE}min`;
  if (s < 86400) return `${Math.floor(s / 3600)}${SPACE}h`;
  return `${Math.floor(s / 86400)}${SPACE}d`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DATE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** Time of day in the reader's zone. */
export const clock = (timestamp) => (timestamp ? CLOCK.format(new Date(timestamp)) : NONE);

/** Date and time in the reader's zone. */
export const date = (timestamp) => (timestamp ? DATE.format(new Date(timestamp)) : NONE);

/** The last part of a resource name. */
export const id = (name) => (name ?? "").split("/").pop();

/** QUEUED as Queued. */
export const word = (state) => (state ?? "").charAt(0) + (state ?? "").slice(1).toLowerCase();

/** 12000 as 12k, for axes. */
export function short(value) {
  const size = Math.abs(value);
  if (size < 1e-4) return String(+value.toPrecision(6));
  const text = size >= 1e6 ? `${+(size / 1e6).toFixed(2)}M` : size >= 1e4 ? `${+(size / 1e3).toFixed(1)}k` : (+size.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 9 });
  return value < 0 ? `−${text}` : text;
}
