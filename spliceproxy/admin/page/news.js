// What happens: the proxy's log, and records of sessions that ended in errors, as they come.

import { Refused } from "./api.js";
import { byId, setShown, setText } from "./dom.js";
import { ago } from "./format.js";
import { eventLine, lostLine, recordLine } from "./news_lines.js";

/** Lines of a list. */
const MOST = 100;

export class News {
  /** `clear()` is called when the filter of the records is taken away here. */
  constructor(api, clear) {
    this.api = api;
    this.only = null;
    this.events = new Lines(byId("events"), byId("events-nothing"));
    this.records = new Lines(byId("records"), byId("records-nothing"));
    byId("records-clear").addEventListener("click", clear);
  }

  /** Show such records alone, `{closedBy, why}`; the parameters that the stream then has. */
  filter(only) {
    this.only = only;
    this.records.empty();
    setText(byId("records-title"), only ? "Sessions that ended" : "Last errors");
    setText(byId("records-about"), only ? `${only.closedBy}: ${only.why}` : "");
    setShown(byId("records-clear"), Boolean(only));
    return only
      ? { records: "all", events: "on", why: only.why }
      : { records: "errors", events: "on" };
  }

  /** The stream is open: take what happened before. */
  async opened() {
    this.#say("");
    const { events } = await this.api.get("events");
    this.events.replace(events.map(eventLine));
  }

  closed(error) {
    const busy = error instanceof Refused && error.status === 429;
    this.#say(
      busy
        ? "The proxy has as many streams as it takes; trying again."
        : "Not connected; trying again.",
    );
  }

  take(kind, data) {
    if (kind === "event") this.events.add(eventLine(data));
    else if (kind === "lost") (data.events ? this.events : this.records).add(lostLine(data));
    else if (kind === "record" && this.#wanted(data)) this.records.add(recordLine(data));
  }

  /** Keep what comes back until it goes on. */
  pause(paused) {
    this.events.pause(paused);
    this.records.pause(paused);
  }

  /** Have the relative times be right, and show from which level on the log is written. */
  update({ status }) {
    setText(byId("log-level-word"), status.log_level);
    setText(byId("log-level"), `log level: ${status.log_level}`);
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
 * The newest lines of a list, on top; many that come at once are painted at once. A line has a
 * `key`, and makes its node when it is painted, if it ever is.
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
    for (const time of this.list.querySelectorAll("time"))
      setText(time, ago(Date.parse(time.dateTime)));
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
