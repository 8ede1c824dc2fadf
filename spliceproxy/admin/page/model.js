// What the tables show: each listener, pool and upstream, with its traffic and its state.

import { keyOf } from "./history.js";
import { duration, percent, plural } from "./format.js";

const NO_RATES = Object.freeze({
  ended: 0,
  errors: 0,
  bytes_up: 0,
  bytes_down: 0,
  connect_failures: 0,
});
const NO_QUANTILES = Object.freeze({ p50: null, p99: null, count: 0 });
const NO_TRAFFIC = Object.freeze({
  sessions: 0,
  ended: 0,
  errors: 0,
  retries: 0,
  bytes_up: 0,
  bytes_down: 0,
  connect_failures: {},
  rates: NO_RATES,
  connect_ms: NO_QUANTILES,
  first_byte_ms: NO_QUANTILES,
  duration_ms: NO_QUANTILES,
});

/** How bad a state is; what is worst names the shape and the colour. */
export const SEVERITY = Object.freeze({
  up: 0,
  slow: 1,
  draining: 2,
  ejected: 3,
  warning: 4,
  down: 5,
});

/** Everything of one round: `status` and `traffic` are the answers of the proxy. */
export function build(status, traffic) {
  const pools = status.pools.map((pool) => poolItem(pool, status, traffic));
  const byName = new Map(pools.map((pool) => [pool.name, pool]));
  const listeners = status.listeners.map((listener) => listenerItem(listener, traffic, byName));
  return { status, traffic, listeners, pools, pool: (name) => byName.get(name) };
}

function poolItem(pool, status, traffic) {
  const measured = traffic.upstreams[pool.name] ?? {};
  const usedBy = status.listeners
    .filter((one) => one.pools.includes(pool.name))
    .map((one) => one.name);
  const upstreams = pool.upstreams.map((one) =>
    upstreamItem(one, pool, measured[one.name] ?? NO_TRAFFIC),
  );
  const total = upstreams.length;
  const state =
    pool.usable === 0
      ? { shape: "down", word: "none up" }
      : pool.usable < total
        ? { shape: "warning", word: `${pool.usable} of ${total} up` }
        : { shape: "up", word: `${total} up` };
  return {
    ...pool,
    kind: "pool",
    key: keyOf("pool", pool.name),
    target: `pool/${pool.name}`,
    traffic: traffic.pools[pool.name] ?? NO_TRAFFIC,
    upstreams,
    usedBy,
    state,
    drained: total > 0 && upstreams.every((one) => one.drained),
    problem: pool.usable < total || pool.waiting > 0 || upstreams.some((one) => one.problem),
  };
}

function upstreamItem(upstream, pool, traffic) {
  const drained = upstream.states.includes("draining");
  return {
    ...upstream,
    kind: "upstream",
    key: keyOf("upstream", pool.name, upstream.name),
    target: `pool/${pool.name}/${upstream.name}`,
    pool: pool.name,
    traffic,
    drained,
    state: upstreamState(upstream),
    problem: !upstream.states.includes("up") || failing(traffic),
  };
}

function upstreamState(upstream) {
  const { states, sessions, held_back: heldBack } = upstream;
  const shape = ["down", "ejected", "draining"].find((one) => states.includes(one));
  if (!shape) {
    return heldBack
      ? { shape: "slow", word: `slow start, ${percent(1 - heldBack / 100)}` }
      : { shape: "up", word: "up" };
  }
  const words = states.map((one) => (one === "draining" && sessions === 0 ? "drained" : one));
  return { shape, word: words.join(", ") };
}

function listenerItem(listener, traffic, pools) {
  const measured = traffic.listeners[listener.name] ?? NO_TRAFFIC;
  const state = listenerState(listener, pools);
  return {
    ...listener,
    kind: "listener",
    key: keyOf("listener", listener.name),
    target: `listener/${listener.name}`,
    traffic: measured,
    drained: listener.draining,
    state,
    problem: state.shape !== "up" || failing(measured),
  };
}

function listenerState(listener, pools) {
  if (listener.draining) {
    return { shape: "draining", word: listener.sessions ? "draining" : "drained" };
  }
  const broken = listener.broken_files ?? [];
  if (broken.length) {
    const hint = broken.map((one) => `${one.file}: ${one.problem}`).join("\n");
    return { shape: "warning", word: plural(broken.length, "broken file"), hint };
  }
  const ending = (listener.certificates ?? []).filter((one) => one.state !== "valid");
  if (ending.length) {
    const hint = ending.map((one) => `${one.file}: ${certificateWords(one)}`).join("\n");
    return { shape: "warning", word: "certificate", hint };
  }
  const gone = listener.pools.filter((name) => pools.get(name)?.usable === 0);
  if (gone.length) {
    return {
      shape: "warning",
      word: "pool down",
      hint: `Nobody in ${gone.join(", ")} can be used.`,
    };
  }
  return { shape: "up", word: "open" };
}

function certificateWords(certificate) {
  const days = certificate.days_left;
  if (certificate.state === "not_yet") return "is not valid yet";
  return days < 0 ? "has expired" : `is valid for ${duration(days * 86400)} more`;
}

function failing(traffic) {
  return traffic.rates.errors > 0 || traffic.rates.connect_failures > 0;
}
