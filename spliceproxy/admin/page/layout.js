// Where the ribbons of "who talks to whom" go. Pure: numbers in, places out.

const GAP = 6;
const LEAST = 16;
const BAR = 5;

/**
 * Lay out `columns` (three lists of nodes with `key`) and `links` (`from`, `to`, `value`) in this
 * room. Every link is as thick as its value says, on one scale; a node is at least as high as its
 * name. Returns `{height, nodes, links}`: nodes by key with x, y, height; links with a path.
 */
export function layOut(columns, links, { width, most, gutters }) {
  const value = new Map();
  const through = new Map();
  for (const { from, to, value: number } of links) {
    through.set(`out ${from}`, (through.get(`out ${from}`) ?? 0) + number);
    through.set(`in ${to}`, (through.get(`in ${to}`) ?? 0) + number);
  }
  for (const nodes of columns) {
    for (const { key } of nodes)
      value.set(key, Math.max(through.get(`out ${key}`) ?? 0, through.get(`in ${key}`) ?? 0));
  }
  const tall = (scale) => Math.max(...columns.map((nodes) => columnHeight(nodes, value, scale)));
  const least = tall(0);
  const room = Math.max(most, least);
  const totals = columns.map((nodes) => nodes.reduce((sum, { key }) => sum + value.get(key), 0));
  const scale = largestScale(tall, room, Math.max(...totals));
  const height = Math.max(least, tall(scale));

  const places = new Map();
  const xs = [
    gutters.left,
    (gutters.left + width - gutters.right - BAR) / 2,
    width - gutters.right - BAR,
  ];
  columns.forEach((nodes, column) => {
    let y = (height - columnHeight(nodes, value, scale)) / 2;
    for (const { key } of nodes) {
      const own = value.get(key) * scale;
      const slot = Math.max(LEAST, own);
      places.set(key, {
        x: xs[column],
        y: y + (slot - own) / 2,
        height: own,
        slot,
        middle: y + slot / 2,
        out: 0,
        in: 0,
      });
      y += slot + GAP;
    }
  });
  const order = (one, other) => one.x - other.x || one.y - other.y;
  const byPlace = (name) => (one, other) => order(places.get(one[name]), places.get(other[name]));
  const sorted = [...links].sort(
    (one, other) => byPlace("from")(one, other) || byPlace("to")(one, other),
  );
  const paths = sorted.map((link) => {
    const from = places.get(link.from);
    const to = places.get(link.to);
    const thick = link.value * scale;
    const path = ribbon(from.x + BAR, from.y + from.out, to.x, to.y + to.in, Math.max(thick, 1));
    from.out += thick;
    to.in += thick;
    return { ...link, path };
  });
  return { height, bar: BAR, nodes: places, links: paths };
}

function columnHeight(nodes, value, scale) {
  const heights = nodes.map(({ key }) => Math.max(LEAST, value.get(key) * scale));
  return heights.reduce((sum, height) => sum + height + GAP, -GAP);
}

/** The largest scale with which all columns fit; 0 where nothing moves. */
function largestScale(tall, room, total) {
  if (!total) return 0;
  let low = 0;
  let high = room / total;
  for (let step = 0; step < 24; step += 1) {
    const middle = (low + high) / 2;
    if (tall(middle) <= room) low = middle;
    else high = middle;
  }
  return low;
}

/** A band between two vertical edges, as thick at both ends. */
function ribbon(x1, y1, x2, y2, thick) {
  const bend = round((x1 + x2) / 2);
  const [a, b, c, d] = [y1, y2, y2 + thick, y1 + thick].map(round);
  const [left, right] = [round(x1), round(x2)];
  const there = `M${left} ${a}C${bend} ${a} ${bend} ${b} ${right} ${b}`;
  return `${there}V${c}C${bend} ${c} ${bend} ${d} ${left} ${d}Z`;
}

function round(number) {
  return Math.round(number * 10) / 10;
}
