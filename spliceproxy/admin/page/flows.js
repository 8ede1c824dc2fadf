// Who talks to whom: listener → pool → upstream, as thick as the throughput.

import {
  byId,
  Keyed,
  makeSvg,
  placeInOrder,
  setAttribute,
  setClass,
  setShown,
  setText,
} from "./dom.js";
import { bytes, plural, rate } from "./format.js";
import { graphOf, none } from "./graph.js";
import { layOut } from "./layout.js";

const LARGEST = 300;
/** Pixels that a letter takes, and rather more than less. */
const LETTER = 7.4;

export class Flows {
  /** `reveal(node)` shows one in the table. */
  constructor(reveal) {
    this.svg = byId("flows");
    this.figure = byId("flows-figure");
    this.readout = byId("flows-readout");
    this.width = this.figure.clientWidth;
    this.ribbons = new Keyed(() => new Ribbon());
    this.nodes = new Keyed(() => new NodeMark(reveal));
    this.focused = null;
    new ResizeObserver(() => {
      if (this.width === this.figure.clientWidth) return;
      this.width = this.figure.clientWidth;
      if (this.graph) this.#draw();
    }).observe(this.figure);
    this.svg.addEventListener("pointerover", (event) => this.#point(event.target));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
    this.svg.addEventListener("focusin", (event) => this.#point(event.target));
    this.svg.addEventListener("focusout", () => this.#point(null));
    this.svg.addEventListener("keydown", (event) => this.#step(event));
  }

  update(model) {
    this.graph = graphOf(model);
    this.#draw();
  }

  #draw() {
    const { columns, links } = this.graph;
    setShown(this.figure, links.length > 0);
    setShown(byId("flows-nothing"), links.length === 0);
    if (!links.length) return;
    const gutters = { left: this.#gutter(columns[0], 0.2), right: this.#gutter(columns[2], 0.36) };
    const room = { width: this.width, most: LARGEST, gutters };
    const { height, bar, nodes, links: drawn } = layOut(columns, links, room);
    setAttribute(this.svg, "width", this.width);
    setAttribute(this.svg, "height", Math.ceil(height));
    const ribbons = drawn.map((link) => ({ ...link, key: `${link.from} ${link.to}` }));
    placeInOrder(byId("flows-ribbons"), this.ribbons.nodes(ribbons));
    const letters = { left: lettersIn(gutters.left), middle: 14, right: lettersIn(gutters.right) };
    const marks = columns.flatMap((column, index) =>
      column.map((node) => ({
        ...node,
        ...nodes.get(node.key),
        bar,
        side: SIDES[index],
        letters: letters[SIDES[index]],
      })),
    );
    placeInOrder(byId("flows-nodes"), this.nodes.nodes(marks));
    this.#keepOneStop();
    this.#tell();
  }

  /** Room for the longest name, within a share of the whole. */
  #gutter(nodes, share) {
    const longest = Math.max(4, ...nodes.map((node) => node.name.length));
    return Math.min(longest * LETTER + 12, Math.max(60, this.width * share));
  }

  /** Hover or focus: what belongs to it stands out, and the line below tells its numbers. */
  #point(target) {
    const node = target?.closest?.("[data-key]");
    this.focused = node?.dataset.key ?? null;
    this.#tell();
  }

  #tell() {
    const { links, total } = this.graph;
    const [kind, key] = split(this.focused);
    const belongs = (link) =>
      kind === "link" ? `${link.from} ${link.to}` === key : link.from === key || link.to === key;
    for (const { node, item } of this.ribbons.known.values()) {
      setClass(node, "chosen", this.focused && belongs(item));
      setClass(node, "faded", this.focused && !belongs(item));
    }
    let words = `all: ${rateWords(total)}`;
    if (kind === "link") {
      const link = links.find(belongs);
      if (link) words = linkWords(link);
    } else if (kind === "node") {
      const mark = this.nodes.known.get(key);
      if (mark) words = `${mark.item.name}: ${rateWords(sumAt(links, key))}`;
    }
    setText(this.readout, words);
  }

  /** One stop of the Tab key for the whole figure; the arrow keys go from ribbon to ribbon. */
  #keepOneStop() {
    const nodes = [...byId("flows-ribbons").children];
    const current = nodes.find((node) => node === document.activeElement) ?? nodes[0];
    for (const node of nodes) setAttribute(node, "tabindex", node === current ? 0 : -1);
  }

  #step(event) {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const nodes = [...byId("flows-ribbons").children];
    const at = nodes.indexOf(document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    const next = nodes[(at + by + nodes.length) % nodes.length];
    setAttribute(nodes[at], "tabindex", -1);
    setAttribute(next, "tabindex", 0);
    next.focus();
  }
}

const SIDES = ["left", "middle", "right"];

class Ribbon {
  constructor() {
    this.node = makeSvg("path", { class: "ribbon", role: "img", tabindex: -1 });
  }

  update(link) {
    this.item = link;
    setAttribute(this.node, "d", link.path);
    setAttribute(this.node, "data-key", `link ${link.key}`);
    setAttribute(this.node, "aria-label", linkWords(link));
    setClass(this.node, "idle", link.moving < 0.5);
  }
}

class NodeMark {
  constructor(reveal) {
    this.bar = makeSvg("rect", { class: "node-bar" });
    this.label = makeSvg("text", { class: "node-label" });
    this.target = makeSvg("rect", { class: "node-target" });
    this.node = makeSvg("g", {}, this.target, this.bar, this.label);
    this.node.addEventListener("click", () => reveal(this.item));
  }

  update(item) {
    this.item = item;
    const { key, name, x, y, height, middle, slot, bar, side, letters } = item;
    setAttribute(this.node, "data-key", `node ${key}`);
    setAttribute(this.node, "class", `node ${side} ${item.shape ?? ""}`);
    place(this.bar, {
      x,
      y: height < 1 ? middle - 0.5 : y,
      width: bar,
      height: Math.max(1, height),
    });
    // In the middle ribbons pass beside the name: only name and bar are the pool's.
    const high = side === "middle" ? Math.min(slot, 18) : slot;
    const wide =
      side === "left" ? x + bar : bar + 6 + (side === "middle" ? name.length : letters) * LETTER;
    place(this.target, {
      x: side === "left" ? 0 : x,
      y: middle - high / 2,
      width: wide,
      height: high,
    });
    setText(this.label, shortened(name, letters));
    setAttribute(this.label, "x", side === "left" ? x - 6 : x + bar + 6);
    setAttribute(this.label, "y", middle);
    setAttribute(this.label, "text-anchor", side === "left" ? "end" : "start");
    setAttribute(this.node, "data-hint", name.length > letters ? name : null);
  }
}

function lettersIn(pixels) {
  return Math.floor((pixels - 10) / LETTER);
}

function place(node, places) {
  for (const [name, value] of Object.entries(places))
    setAttribute(node, name, Math.round(value * 10) / 10);
}

/** The middle of a long name says least. */
function shortened(name, most) {
  if (name.length <= most) return name;
  const tail = Math.ceil((most - 1) * 0.6);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}

function split(key) {
  if (!key) return [null, null];
  const at = key.indexOf(" ");
  return [key.slice(0, at), key.slice(at + 1)];
}

function sumAt(links, key) {
  const sum = none();
  for (const link of links) {
    // Of a pool, what goes out is what came in.
    if (link.from !== key && (link.to !== key || key.startsWith("pool/"))) continue;
    for (const name of Object.keys(sum)) sum[name] += link[name];
  }
  return sum;
}

function rateWords({ up, down, sessions, bytes: all, ended }) {
  const since = `${bytes(all)} and ${plural(ended, "session")} since the start`;
  return `↑ ${rate(up)}  ↓ ${rate(down)}, ${plural(sessions, "live session")}; ${since}`;
}

function linkWords(link) {
  return `${link.fromName} → ${link.toName}: ${rateWords(link)}`;
}
