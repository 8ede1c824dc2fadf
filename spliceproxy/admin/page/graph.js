// Who talks to whom, as columns of names and links between them. Pure: a model in, a graph out.

import { count } from "./format.js";

/** Upstreams that have a place of their own, of all pools together; the rest are "n others". */
const UPSTREAMS = 14;

/** Three columns and the links between them; names that left the configuration have none. */
export function graphOf(model) {
  const { listeners, pools, traffic } = model;
  const known = new Set([...listeners, ...pools].map((one) => one.key));
  const edges = traffic.edges.filter(
    (one) => known.has(`listener/${one.listener}`) && known.has(`pool/${one.pool}`),
  );
  const shown = namedUpstreams(pools, edges);
  const links = new Map();
  const total = none();
  for (const edge of edges) {
    add(total, edge);
    const pool = `pool/${edge.pool}`;
    addLink(links, `listener/${edge.listener}`, pool, edge.listener, edge.pool, edge);
    if (!edge.upstream) continue;
    const key = `upstream/${edge.pool}/${edge.upstream}`;
    const others = shown.others.get(edge.pool);
    if (shown.keys.has(key)) addLink(links, pool, key, edge.pool, edge.upstream, edge);
    else if (others) addLink(links, pool, others.key, edge.pool, others.name, edge);
  }
  const used = new Set([...links.values()].flatMap((one) => [one.from, one.to]));
  const node = ({ key, name, state }) => ({ key, name, shape: state.shape });
  const upstreams = pools.flatMap((pool) => {
    const own = pool.upstreams
      .filter((one) => shown.keys.has(one.key))
      .map((one) => ({ ...node(one), pool: pool.name }));
    const others = shown.others.get(pool.name);
    return others ? [...own, { ...others, pool: pool.name }] : own;
  });
  const columns = [listeners.map(node), pools.map(node), upstreams].map((column) =>
    column.filter((one) => used.has(one.key)),
  );
  // Where nothing moves, the sessions say who is with whom.
  const moving = [...links.values()].some((one) => one.moving >= 1);
  const found = [...links.values()].map((one) => ({
    ...one,
    value: moving ? one.moving : one.sessions,
  }));
  return { columns, links: found, total };
}

/** Of each pool the upstreams with most to say, as many as there is room for. */
function namedUpstreams(pools, edges) {
  const busy = new Map();
  for (const { pool, upstream, rates, sessions } of edges) {
    const key = `upstream/${pool}/${upstream}`;
    busy.set(key, (busy.get(key) ?? 0) + rates.bytes_up + rates.bytes_down + sessions * 1e-6);
  }
  const each = Math.max(2, Math.floor(UPSTREAMS / Math.max(1, pools.length)));
  const keys = new Set();
  const others = new Map();
  for (const pool of pools) {
    const most = [...pool.upstreams].sort(
      (one, other) => (busy.get(other.key) ?? 0) - (busy.get(one.key) ?? 0),
    );
    const own = most.length > each + 1 ? most.slice(0, each) : most;
    for (const { key } of own) keys.add(key);
    const rest = most.length - own.length;
    if (rest) others.set(pool.name, { key: `others/${pool.name}`, name: `${count(rest)} others` });
  }
  return { keys, others };
}

/** Nothing of all that is added up. */
export function none() {
  return { sessions: 0, ended: 0, up: 0, down: 0, bytes: 0, moving: 0 };
}

function add(sum, { sessions, ended, bytes_up: up, bytes_down: down, rates }) {
  sum.sessions += sessions;
  sum.ended += ended;
  sum.bytes += up + down;
  sum.up += rates.bytes_up;
  sum.down += rates.bytes_down;
  sum.moving += rates.bytes_up + rates.bytes_down;
}

function addLink(links, from, to, fromName, toName, edge) {
  const key = `${from} ${to}`;
  if (!links.has(key)) links.set(key, { from, to, fromName, toName, ...none() });
  add(links.get(key), edge);
}
