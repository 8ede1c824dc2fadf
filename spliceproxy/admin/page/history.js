// The last ten minutes: what the proxy remembers, asked once, then what each round says.

const NOTHING = Object.freeze([]);

export class History {
  constructor() {
    this.version = 0;
    this.forget();
  }

  /** Have nothing, so that the proxy is asked again. */
  forget() {
    this.version += 1;
    this.interval = 5;
    this.times = [];
    this.groups = new Map();
    this.missing = true;
  }

  /** Take `/api/v1/history`, the answer of the proxy. */
  load(answer) {
    this.forget();
    this.missing = false;
    this.interval = answer.interval_seconds;
    this.times = [...answer.times];
    this.length = this.times.length;
    const add = (key, series) =>
      this.groups.set(
        key,
        mapValues(series, (values) => [...values]),
      );
    add("total", answer.total);
    for (const [name, series] of Object.entries(answer.listeners))
      add(keyOf("listener", name), series);
    for (const [name, series] of Object.entries(answer.pools)) add(keyOf("pool", name), series);
    for (const [pool, upstreams] of Object.entries(answer.upstreams)) {
      for (const [name, series] of Object.entries(upstreams))
        add(keyOf("upstream", pool, name), series);
    }
  }

  /** Add what `/api/v1/traffic` says, where a sample's time has passed since the last one. */
  append(traffic) {
    const passed = traffic.time - (this.times.at(-1) ?? 0);
    if (this.missing || passed < this.interval - 0.5) return;
    if (this.times.length && passed > 3 * this.interval) {
      this.missing = true; // a gap: the proxy knows what was in it
      return;
    }
    this.version += 1;
    this.times.push(traffic.time);
    const seen = new Set();
    for (const [key, numbers] of measured(traffic)) {
      seen.add(key);
      if (!this.groups.has(key)) this.groups.set(key, this.#unknown());
      for (const [name, values] of Object.entries(this.groups.get(key))) {
        values.push(name === "sessions" ? numbers.sessions : (numbers.rates[name] ?? null));
      }
    }
    const most = Math.round(600 / this.interval);
    const surplus = this.times.length - most;
    if (surplus > 0) this.times.splice(0, surplus);
    for (const [key, series] of this.groups) {
      if (!seen.has(key)) this.groups.delete(key);
      else if (surplus > 0) for (const values of Object.values(series)) values.splice(0, surplus);
    }
  }

  /** One series, oldest first; null where nothing is known. */
  series(key, name) {
    return this.groups.get(key)?.[name] ?? NOTHING;
  }

  /** Bytes per second, both ways. */
  throughput(key) {
    const up = this.series(key, "bytes_up");
    const down = this.series(key, "bytes_down");
    return up.map((value, index) => (value == null ? null : value + down[index]));
  }

  /** New sessions per second: those that ended, and those that the live ones became more by. */
  arrivals(key) {
    const sessions = this.series(key, "sessions");
    return this.series(key, "ended").map((ended, index) => {
      const before = sessions[index - 1];
      return ended == null || before == null
        ? null
        : Math.max(0, ended + (sessions[index] - before) / this.interval);
    });
  }

  #unknown() {
    const names = ["sessions", "ended", "errors", "bytes_up", "bytes_down", "connect_failures"];
    const before = this.times.length - 1;
    return Object.fromEntries(names.map((name) => [name, new Array(before).fill(null)]));
  }
}

/** The key of a listener, a pool, or an upstream of a pool. */
export function keyOf(...names) {
  return names.join("/");
}

function* measured(traffic) {
  yield ["total", traffic.total];
  for (const [name, numbers] of Object.entries(traffic.listeners))
    yield [keyOf("listener", name), numbers];
  for (const [name, numbers] of Object.entries(traffic.pools)) yield [keyOf("pool", name), numbers];
  for (const [pool, upstreams] of Object.entries(traffic.upstreams)) {
    for (const [name, numbers] of Object.entries(upstreams))
      yield [keyOf("upstream", pool, name), numbers];
  }
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}
