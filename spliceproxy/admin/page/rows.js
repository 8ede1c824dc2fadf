// A long table of which only the rows in sight exist: 5000 upstreams cost as much as 30.

import { make, placeInOrder, setAttribute, setClass, setShown } from "./dom.js";

const OVERSCAN = 6;
/** Milliseconds. */
const MARKED = 2000;

export class VirtualRows {
  /**
   * `scroller` is the element that scrolls, `body` the tbody in it, and `create(item)` makes an
   * object with `node` (a tr) and `update(item)`. Items have a `key`. All rows are as high as the
   * style sheet's --row says.
   */
  constructor(scroller, body, create) {
    Object.assign(this, { scroller, body, create });
    this.items = [];
    this.rows = new Map();
    this.from = this.to = 0;
    this.above = spacer();
    this.below = spacer();
    body.append(this.above, this.below);
    this.rowHeight = parseFloat(getComputedStyle(scroller).getPropertyValue("--row")) || 30;
    this.room = scroller.clientHeight;
    this.top = 0; // asked of the scroller only when it moves: a question costs a layout
    this.asked = 0;
    new ResizeObserver(() => {
      this.room = scroller.clientHeight;
      this.#paintSoon();
    }).observe(scroller);
    const onScroll = () => {
      this.top = scroller.scrollTop;
      this.#paintSoon();
    };
    scroller.addEventListener("scroll", onScroll, { passive: true });
  }

  /** Show these items. */
  show(items) {
    this.items = items;
    this.paint();
  }

  /** Bring one item into sight, and mark it for a moment. */
  reveal(key) {
    const index = this.items.findIndex((item) => item.key === key);
    if (index < 0) return;
    this.scroller.scrollTop = (index - 1) * this.rowHeight;
    this.top = this.scroller.scrollTop;
    this.paint();
    const { node } = this.rows.get(key);
    node.scrollIntoView({ block: "nearest" });
    setClass(node, "revealed", true);
    setTimeout(() => setClass(node, "revealed", false), MARKED);
  }

  /** Have the rows in sight say what the items say. */
  paint() {
    const { items, rowHeight } = this;
    // A scroller without an overflow is as high as its rows: then all that may fit are painted.
    const room = Math.max(this.room, 400);
    const first = Math.max(0, Math.floor(this.top / rowHeight) - OVERSCAN);
    this.to = Math.min(items.length, first + Math.ceil(room / rowHeight) + 2 * OVERSCAN);
    this.from = Math.min(first, Math.max(0, this.to - 1));
    const before = this.rows;
    this.rows = new Map();
    const nodes = [];
    for (let index = this.from; index < this.to; index += 1) {
      const item = items[index];
      const row = before.get(item.key) ?? this.create(item);
      this.rows.set(item.key, row);
      setAttribute(row.node, "aria-rowindex", index + 2); // the head is the first one
      row.update(item);
      nodes.push(row.node);
    }
    this.#keepFocus(before);
    setHeight(this.above, this.from * rowHeight);
    setHeight(this.below, (items.length - this.to) * rowHeight);
    placeInOrder(this.body, nodes, this.above, this.below);
  }

  /** A row that goes out of sight with the focus on it leaves the focus with the table. */
  #keepFocus(before) {
    const focused = document.activeElement?.closest("tr");
    if (!focused || !this.body.contains(focused)) return;
    for (const [key, row] of before) {
      if (row.node === focused && !this.rows.has(key)) this.scroller.focus({ preventScroll: true });
    }
  }

  #paintSoon() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }
}

function spacer() {
  return make("tr", { class: "spacer", "aria-hidden": "true" }, make("td"));
}

function setHeight(row, pixels) {
  const height = `${pixels}px`;
  if (row.style.height !== height) row.style.height = height;
  setShown(row, pixels > 0);
}
