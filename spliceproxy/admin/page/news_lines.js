// Events and session records as lines: each has a `key`, and makes its `node` when it is painted.

import { icon, make } from "./dom.js";
import { ago, bytes, clock, count, exactTime, milliseconds, plural } from "./format.js";
import { howWords, NORMAL_ENDS, whySentence } from "./words.js";

const LEVELS = { warning: "warning", error: "error", critical: "error" };
const UNTOLD = new Set(["time", "level", "event", "logger"]);

function moment(time) {
  const at = Date.parse(time);
  return make("time", { datetime: time, text: ago(at), "data-hint": exactTime(at) });
}

export function eventLine(event) {
  return { key: JSON.stringify(event), node: () => eventNode(event) };
}

function eventNode(event) {
  const shape = LEVELS[event.level] ?? "dot";
  const fields = Object.entries(event).filter(
    ([name, value]) => !UNTOLD.has(name) && value != null,
  );
  const told = fields.map(([name, value]) => `${name} ${valueWords(value)}`);
  const level =
    shape === "dot" ? [] : [make("span", { class: "unseen", text: `${event.level}: ` })];
  const about = make("span", { class: "about", text: told.join(", ") });
  return lineNode(
    shape,
    make("span", { class: "line" }, ...level, make("b", { text: event.event }), " ", about),
    event.time,
  );
}

function lineNode(shape, line, time) {
  return make("li", { class: shape }, icon(shape), line, moment(time));
}

function valueWords(value) {
  if (Array.isArray(value)) return value.join("; ");
  return typeof value === "object" ? JSON.stringify(value) : value;
}

let number = 0;

/** Of records, or of events. */
export function lostLine({ records, events }) {
  const what = events ? plural(events, "more event") : plural(records, "more record");
  const text = `${what} came than could be told`;
  const time = new Date().toISOString();
  const node = () => lineNode("warning", make("span", { class: "line", text }), time);
  return { key: `lost ${(number += 1)}`, node };
}

export function recordLine(record) {
  return { key: `${record.session} ${record.start}`, node: () => recordNode(record) };
}

function recordNode(record) {
  const { why, closed_by: by, how, start, duration_ms: lasted } = record;
  const ended = new Date(Date.parse(start) + (lasted ?? 0)).toISOString();
  const hint = [
    whySentence(why),
    `${by}, ${howWords(how)}, at ${clock(Date.parse(ended))}`,
    ...details(record),
  ];
  const line = make(
    "span",
    { class: "line", "data-hint": hint.join("\n") },
    make("b", { text: why }),
    ` by ${by} `,
    make("span", { class: "about", text: circumstances(record) }),
  );
  return lineNode(NORMAL_ENDS.has(why) ? "up" : "error", line, ended);
}

function circumstances({
  client,
  listener,
  upstream,
  pool,
  phase,
  lost,
  pid,
  duration_ms: lasted,
  bytes_up: up,
  bytes_down: down,
}) {
  if (lost != null) return `pid ${pid}, ${plural(lost, "session")} lost`;
  const to = upstream ?? pool;
  const place = `${client} on ${listener}${to ? ` → ${to}` : ""}`;
  const moved = `${milliseconds(lasted)}, ↑\u00a0${bytes(up)} ↓\u00a0${bytes(down)}`;
  return [place, phase === "relay" ? "" : `in ${phase}`, moved].filter(Boolean).join(", ");
}

function details({
  session,
  retries,
  tls_error: tls,
  sni,
  connect_ms: connect,
  first_byte_ms: first,
  queue_ms: queued,
}) {
  const found = [`session ${session}`];
  if (sni) found.push(`asked for ${sni}`);
  if (tls) found.push(`TLS: ${tls}`);
  if (queued != null) found.push(`queued ${milliseconds(queued)}`);
  if (connect != null)
    found.push(`connect ${milliseconds(connect)}, first byte ${milliseconds(first)}`);
  if (retries) found.push(`${count(retries)} others tried`);
  return found;
}
