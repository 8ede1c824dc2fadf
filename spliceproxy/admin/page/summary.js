// The head of the page: ready or not, the numbers of all together, and the workers.

import { Sparkline } from "./charts.js";
import {
  byId,
  Keyed,
  make,
  placeInOrder,
  setAttribute,
  setClass,
  setShown,
  setText,
} from "./dom.js";
import {
  bytes,
  count,
  duration,
  exactTime,
  milliseconds,
  percent,
  perSecond,
  plural,
  rate,
} from "./format.js";

/** Seconds over which new sessions are counted, as the proxy's own rates are. */
const WINDOW = 10;
/** Milliseconds for which a title stands. */
const TITLE_TIME = 20_000;

export class Summary {
  constructor(history) {
    this.history = history;
    this.drawn = 0;
    this.earlier = [];
    this.tiles = {
      sessions: new Tile("sessions", () => history.series("total", "sessions"), count),
      down: new Tile("down", () => history.series("total", "bytes_down"), rate),
      up: new Tile("up", () => history.series("total", "bytes_up"), rate),
      arrivals: new Tile("arrivals", () => history.arrivals("total"), perSecond),
      errors: new Tile("errors", () => history.series("total", "errors"), perSecond),
    };
    this.workers = new Keyed(() => new WorkerBar());
  }

  update({ status, traffic }) {
    const { total } = traffic;
    const { rates } = total;
    this.#showProcess(status);
    const { sessions, down, up, arrivals, errors } = this.tiles;
    sessions.show(count(total.sessions), sessionsWords(status));
    down.show(rate(rates.bytes_down), `${bytes(total.bytes_down)} since the start`);
    up.show(rate(rates.bytes_up), `${bytes(total.bytes_up)} since the start`);
    arrivals.show(
      perSecond(this.#arrivals(traffic)),
      `${count(total.ended + total.sessions)} since the start`,
    );
    errors.show(perSecond(rates.errors), `${count(total.errors)} since the start`);
    errors.alarm(rates.errors > 0);
    setText(byId("connect-p50"), milliseconds(total.connect_ms.p50));
    setText(byId("connect-p99"), `p99 ${milliseconds(total.connect_ms.p99)}`);
    const first = total.first_byte_ms;
    setText(byId("first-byte"), `first byte ${milliseconds(first.p50)}`);
    const told = `From accept to the upstream's first byte: p99 ${milliseconds(first.p99)}`;
    setAttribute(byId("first-byte"), "data-hint", told);
    this.#showWorkers(status.workers, traffic.workers);
    if (this.drawn !== this.history.version) {
      this.drawn = this.history.version;
      for (const tile of Object.values(this.tiles)) tile.draw();
    }
  }

  #showProcess(status) {
    const { ready, not_ready: reasons = [] } = status;
    setClass(byId("ready"), "not", !ready);
    setText(byId("ready-word"), ready ? "ready" : "not ready");
    setAttribute(byId("ready-icon"), "href", ready ? "#icon-up" : "#icon-down");
    setText(byId("reasons"), ready ? "" : reasons.join("; "));
    setShown(byId("reasons"), !ready && reasons.length > 0);
    setText(byId("version"), status.version);
    setText(byId("uptime"), `up ${duration(status.uptime_seconds)}`);
    const place = [
      `Since ${exactTime(Date.parse(status.started))}`,
      `pid ${status.pid}`,
      ...status.config_files,
    ];
    setAttribute(byId("uptime"), "data-hint", place.join("\n"));
    this.#showTitle(ready ? "" : "not ready · ", status.sessions);
  }

  /** The browser paints its own windows for each new title: another number alone has to wait. */
  #showTitle(state, sessions) {
    const same = document.title === this.title && this.titleState === state;
    if (same && Date.now() - this.titled < TITLE_TIME) return;
    document.title = `${state}${plural(sessions, "session")} · spliceproxy`;
    this.title = document.title;
    this.titleState = state;
    this.titled = Date.now();
  }

  /** New sessions per second, from what rounds counted; at first those that ended. */
  #arrivals({ time, total }) {
    const seen = total.ended + total.sessions;
    this.earlier = this.earlier.filter(
      (one) => time - one.time <= WINDOW + 1 && one.seen <= seen && one.time < time,
    );
    const [oldest] = this.earlier;
    this.earlier.push({ time, seen });
    return oldest ? (seen - oldest.seen) / (time - oldest.time) : total.rates.ended;
  }

  #showWorkers(workers, measured) {
    const numbers = new Map(measured.map((one) => [one.worker, one]));
    const items = workers.map((one) => ({
      ...one,
      key: one.worker,
      numbers: numbers.get(one.worker),
    }));
    placeInOrder(byId("workers"), this.workers.nodes(items));
    const busiest = Math.max(0, ...measured.map((one) => one.cpu ?? 0));
    setText(byId("workers-cpu"), percent(busiest));
    const dead = workers.filter((one) => !one.ready).length;
    setText(
      byId("workers-about"),
      dead
        ? `${plural(dead, "worker")} not ready`
        : `busiest of ${plural(workers.length, "worker")}`,
    );
    setClass(byId("workers-about"), "alarm", dead > 0);
  }
}

class Tile {
  constructor(id, series, words) {
    Object.assign(this, { series, words });
    this.node = byId(`tile-${id}`);
    [this.value, this.about] = this.node.querySelectorAll("dd > span");
    this.spark = new Sparkline();
    this.figure = this.node.querySelector(".figure");
    this.figure.append(this.spark.node);
  }

  show(value, about) {
    setText(this.value, value);
    setText(this.about, about);
  }

  alarm(on) {
    setClass(this.node, "alarm", on);
  }

  draw() {
    const values = this.series();
    this.spark.draw(values);
    const known = values.filter((value) => value != null);
    const told = known.length
      ? `last ten minutes: ${this.words(Math.min(...known))} to ${this.words(Math.max(...known))}`
      : "last ten minutes: nothing known";
    setAttribute(this.figure, "aria-label", told);
    setAttribute(this.figure, "data-hint", told[0].toUpperCase() + told.slice(1));
  }
}

class WorkerBar {
  constructor() {
    this.fill = make("span", { class: "worker-fill" });
    this.node = make("li", { class: "worker" }, this.fill, make("span", { class: "unseen" }));
  }

  update({ worker, pid, ready, sessions, age_seconds: age, numbers }) {
    const cpu = Math.min(1, numbers?.cpu ?? 0);
    const scale = `1 ${Math.max(0.04, cpu).toFixed(2)}`;
    if (this.fill.style.scale !== scale) this.fill.style.scale = scale;
    setClass(this.node, "gone", !ready);
    const words = ready ? `${percent(numbers?.cpu)} CPU` : "not ready";
    setText(this.node.lastChild, `worker ${worker}: ${words}`);
    setAttribute(
      this.node,
      "data-hint",
      [`Worker ${worker}: ${words}`, ...details(pid, sessions, age, numbers)].join("\n"),
    );
  }
}

function details(pid, sessions, age, numbers) {
  const found = [pid ? `pid ${pid}, for ${duration(age)}` : "", plural(sessions, "session")];
  if (numbers) {
    found.push(
      `busy ${percent(numbers.busy)}, longest turn ${milliseconds(numbers.lag_ms)}`,
      `${perSecond(numbers.events_per_wake)} events a wake`,
      `pipes: ${count(numbers.pipes_lent)} lent, ${count(numbers.pipes_pooled)} pooled`,
      `memory ${bytes(numbers.memory_bytes)}`,
    );
    if (numbers.pipes_refused) found.push(`${count(numbers.pipes_refused)} pipes refused`);
    if (numbers.accept_pauses) found.push(`accepting paused ${count(numbers.accept_pauses)} times`);
    if (numbers.records_dropped) found.push(`${plural(numbers.records_dropped, "record")} dropped`);
    if (numbers.deaths) found.push(`died ${plural(numbers.deaths, "time")}`);
  }
  return found.filter(Boolean);
}

function sessionsWords({ max_sessions: most, older_sessions: older }) {
  const words = [
    most ? `of at most ${count(most)}` : "",
    older ? `${count(older)} in an older process` : "",
  ];
  return words.filter(Boolean).join(", ") || "live now";
}
