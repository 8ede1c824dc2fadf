// What happens: lines of the proxy's log, and records of sessions that ended in errors, as they come.

import { byId, icon, make, setShown, setText } from "./dom.js";
import { ago, bytes, clock, count, exactTime, milliseconds, plural } from "./format.js";
import { Refused } from "./api.js";
import { howWords, NORMAL_ENDS, whySentence } from "./words.js";

const MOST = 100;
const LEVELS = { warning: "warning", error: "error", critical: "error" };
const UNTOLD = new Set(["time", "level", "event", "logger"]);

export class News {
  /** `clear()` is called when the filter of the records is taken away here. */
  constructor(api, clear) {
    this.api = api;
    this.only = null;
    this.events = new Lines(byId("events"), byId("events-nothing"));
    this.records = new Lines(byId("records"), byId("records-nothing"));
    byId("records-clear").addEventListener("click", clear);
  }

  /** The parameters of the stream, and what is shown of its records: `only` is `{closedBy, why}`. */
  filter(only) {
    this.only = only;
    this.records.empty();
    setText(byId("records-title"), only ? "Sessions that ended" : "Last errors");
    setText(byId("records-about"), only ? `${only.closedBy}: ${only.why}` : "");
    setShown(byId("records-clear"), Boolean(only));
    return only ? { records: "all", events: "on", why: only.why } : { records: "errors", events: "on" };
  }

  /** The stream is open: take what happened before. */
  async opened() {
    this.#say("");
    const { events } = await this.api.get("events");
    this.events.replace(events.map(eventLine));
  }

  closed(error) {
    const busy = error instanceof Refused && error.status === 429;
    this.#say(busy ? "The proxy has as many streams as it takes; trying again." : "Not connected; trying again.");
  }

  take(kind, data) {
    if (kind === "event") this.events.add(eventLine(data));
    else if (kind === "lost") this.records.add(lostLine(data));
    else if (kind === "record" && this.#wanted(data)) this.records.add(recordLine(data));
  }

  /** Keep what comes back until it goes on. */
  pause(paused) {
    this.events.pause(paused);
    this.records.pause(paused);
  }

  /** Have the relative times be right. */
  update() {
    this.events.refresh();
    this.records.refresh();
  }

  #wanted(record) {
    return !this.only || record.closed_by === this.only.closedBy;
  }

  #say(text) {
    setText(byId("stream-state"), text);
  }
}

/**
 * The newest lines of a list, on top; many that come at once are painted at once. A line has a `key`
 * and makes its node when it is painted, if it ever is.
 */
class Lines {
  constructor(list, nothing) {
    Object.assign(this, { list, nothing });
    this.waiting = [];
    this.keys = new Set();
    this.paused = false;
    this.asked = 0;
  }

  add(line) {
    if (this.keys.has(line.key)) return;
    this.waiting.push(line);
    if (this.waiting.length > MOST) this.waiting.shift();
    if (!this.asked && !this.paused) this.asked = setTimeout(() => this.#paint(), 200);
  }

  /** Have these lines, oldest first, and those that came meanwhile. */
  replace(lines) {
    const keys = new Set(lines.map((line) => line.key));
    this.waiting = [...lines.slice(-MOST), ...this.waiting.filter((line) => !keys.has(line.key))];
    this.list.replaceChildren();
    this.keys.clear();
    this.#paint();
  }

  empty() {
    this.waiting = [];
    this.replace([]);
  }

  pause(paused) {
    this.paused = paused;
    if (!paused) this.#paint();
  }

  refresh() {
    for (const time of this.list.querySelectorAll("time")) setText(time, ago(Date.parse(time.dateTime)));
  }

  #paint() {
    this.asked = 0;
    const nodes = this.waiting.splice(0).map(({ key, node }) => {
      this.keys.add(key);
      const made = node();
      made.dataset.key = key;
      return made;
    });
    this.list.prepend(...nodes.reverse());
    while (this.list.children.length > MOST) {
      this.keys.delete(this.list.lastElementChild.dataset.key);
      this.list.lastElementChild.remove();
    }
    setShown(this.nothing, this.list.children.length === 0);
  }
}

function moment(time) {
  const at = Date.parse(time);
  return make("time", { datetime: time, text: ago(at), "data-hint": exactTime(at) });
}

function eventLine(event) {
  return { key: JSON.stringify(event), node: () => eventNode(event) };
}

function eventNode(event) {
  const shape = LEVELS[event.level] ?? "dot";
  const fields = Object.entries(event).filter(([name, value]) => !UNTOLD.has(name) && value != null);
  const told = fields.map(([name, value]) => `${name} ${valueWords(value)}`);
  const level = shape === "dot" ? [] : [make("span", { class: "unseen", text: `${event.level}: ` })];
  const about = make("span", { class: "about", text: told.join(", ") });
  return lineNode(shape, make("span", { class: "line" }, ...level, make("b", { text: event.event }), " ", about), event.time);
}

function lineNode(shape, line, time) {
  return make("li", { class: shape }, icon(shape), line, moment(time));
}

function valueWords(value) {
  if (Array.isArray(value)) return value.join("; ");
  return typeof value === "object" ? JSON.stringify(value) : value;
}

let number = 0;

function lostLine({ records }) {
  const text = `${plural(records, "more record")} came than could be told`;
  const time = new Date().toISOString();
  const node = () => lineNode("warning", make("span", { class: "line", text }), time);
  return { key: `lost ${(number += 1)}`, node };
}

function recordLine(record) {
  return { key: `${record.session} ${record.start}`, node: () => recordNode(record) };
}

function recordNode(record) {
  const { why, closed_by: by, how, start, duration_ms: lasted } = record;
  const ended = new Date(Date.parse(start) + (lasted ?? 0)).toISOString();
  const hint = [whySentence(why), `${by}, ${howWords(how)}, at ${clock(Date.parse(ended))}`, ...details(record)];
  const line = make(
    "span",
    { class: "line", "data-hint": hint.join("\n") },
    make("b", { text: why }),
    ` by ${by} `,
    make("span", { class: "about", text: circumstances(record) }),
  );
  return lineNode(NORMAL_ENDS.has(why) ? "up" : "error", line, ended);
}

function circumstances({ client, listener, upstream, pool, phase, lost, pid, duration_ms: lasted, bytes_up: up, bytes_down: down }) {
  if (lost != null) return `pid ${pid}, ${plural(lost, "session")} lost`;
  const to = upstream ?? pool;
  const place = `${client} on ${listener}${to ? ` → ${to}` : ""}`;
  const moved = `${milliseconds(lasted)}, ↑\u00a0${bytes(up)} ↓\u00a0${bytes(down)}`;
  return [place, phase === "relay" ? "" : `in ${phase}`, moved].filter(Boolean).join(", ");
}

function details({ session, retries, tls_error: tls, sni, connect_ms: connect, first_byte_ms: first, queue_ms: queued }) {
  const found = [`session ${session}`];
  if (sni) found.push(`asked for ${sni}`);
  if (tls) found.push(`TLS: ${tls}`);
  if (queued != null) found.push(`queued ${milliseconds(queued)}`);
  if (connect != null) found.push(`connect ${milliseconds(connect)}, first byte ${milliseconds(first)}`);
  if (retries) found.push(`${count(retries)} others tried`);
  return found;
}
