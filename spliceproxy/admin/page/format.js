// Numbers and times as text. A value that is not known (null) is a dash.

export const UNKNOWN = "–";

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const grouped = new Intl.NumberFormat("en");
const clockTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const dateTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** A whole number: `1,234`. */
export function count(value) {
  return value == null ? UNKNOWN : grouped.format(Math.round(value));
}

/** Bytes in the largest unit that leaves a whole part: `999 B`, `1.5 KiB`, `320 GiB`. */
export function bytes(value) {
  if (value == null) return UNKNOWN;
  let size = value;
  let unit = 0;
  while (size >= 1023.5 && unit < SIZES.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit && size < 99.95 ? size.toFixed(1) : Math.round(size)}\u00a0${SIZES[unit]}`;
}

/** Bytes per second: `1.5 KiB/s`, and `0` for none at all. */
export function rate(value) {
  if (value == null) return UNKNOWN;
  return value < 0.5 ? "0" : `${bytes(value)}/s`;
}

/** How often something happens in a second: `0`, `0.2`, `45`, `1,200`. */
export function perSecond(value) {
  if (value == null) return UNKNOWN;
  if (value <= 0) return "0";
  if (value < 0.05) return "<0.1";
  return value < 9.95 ? value.toFixed(1) : count(value);
}

/** Milliseconds, at least two figures of them: `<0.01 ms`, `0.41 ms`, `12 ms`, `3.2 s`. */
export function milliseconds(value) {
  if (value == null) return UNKNOWN;
  if (value < 0.005) return "<0.01\u00a0ms";
  if (value < 0.995) return `${value.toFixed(2)}\u00a0ms`;
  if (value < 9.95) return `${value.toFixed(1)}\u00a0ms`;
  if (value < 999.5) return `${Math.round(value)}\u00a0ms`;
  return duration(value / 1000);
}

/** Seconds, two units of them at the most: `0.4 s`, `12 s`, `5m 07s`, `3d 4h`. */
export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds < 9.95) return `${seconds.toFixed(1)}\u00a0s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}\u00a0s`;
  const [big, bigUnit, small, smallUnit] = LARGER.find(([size]) => whole >= size);
  const rest = Math.floor((whole % big) / small);
  const padded = bigUnit === "d" ? rest : String(rest).padStart(2, "0");
  return `${Math.floor(whole / big)}${bigUnit}\u00a0${padded}${smallUnit}`;
}

const LARGER = [
  [86400, "d", 3600, "h"],
  [3600, "h", 60, "m"],
  [60, "m", 1, "s"],
];

let ahead = 0;

/** Take over the proxy's clock, which says `seconds` now: its moments are told by it. */
export function setClock(seconds) {
  ahead = seconds * 1000 - Date.now();
}

/** How long ago a moment (milliseconds, of the proxy's clock) was: `now`, `12 s ago`. */
export function ago(then) {
  const seconds = Math.round((Date.now() + ahead - then) / 1000);
  if (seconds < 2) return "now";
  return `${seconds < 10 ? `${seconds}\u00a0s` : duration(seconds)} ago`;
}

/** A share of one: `31 %`, `0.2 %`. */
export function percent(share) {
  if (share == null) return UNKNOWN;
  const value = share * 100;
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)}\u00a0%`;
}

/** A moment (milliseconds) as the clock shows it here. */
export function clock(time) {
  return clockTime.format(time);
}

/** A moment (milliseconds) with its date, here and in UTC. */
export function exactTime(time) {
  return `${dateTime.format(time)} (${new Date(time).toISOString()})`;
}

/** One of something, or several: `1 session`, `12 sessions`. */
export function plural(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

/** `a`, `a and b`, `a, b and c`; names beyond the first few are a number. */
export function listed(names, most = 4) {
  const shown = names.length > most + 1 ? names.slice(0, most) : names;
  const rest = names.length - shown.length;
  const words = rest ? [...shown, `${count(rest)} others`] : shown;
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** Who did not answer a question or an order about sessions, and what that means; empty: all did. */
export function silentWords({ silent_workers: workers = [], silent_processes: processes }, meaning) {
  const silent = listed([
    ...workers.map((worker) => `worker ${worker}`),
    ...processes.map((pid) => `process ${pid} of before an upgrade`),
  ]);
  if (!silent) return "";
  return `${silent[0].toUpperCase()}${silent.slice(1)} did not answer in time: ${meaning}`;
}
