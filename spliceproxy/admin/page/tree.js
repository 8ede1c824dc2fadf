// Listeners, pools and their upstreams: one table, dense, sorted and filtered as asked for.

import { byId, setAttribute, setShown, setText } from "./dom.js";
import { count } from "./format.js";
import { SEVERITY } from "./model.js";
import { VirtualRows } from "./rows.js";
import { makeRow } from "./tree_rows.js";

/** A pool with more upstreams than this is closed until somebody opens it. */
const COLLAPSED_FROM = 100;

const SORT_BY = {
  name: (item) => item.name,
  state: (item) => SEVERITY[item.state.shape],
  sessions: (item) => item.sessions,
  up: (item) => item.traffic.rates.bytes_up,
  down: (item) => item.traffic.rates.bytes_down,
  p50: (item) => item.traffic.connect_ms.p50 ?? -1,
  p99: (item) => item.traffic.connect_ms.p99 ?? -1,
  errors: (item) => item.traffic.rates.errors + item.traffic.rates.connect_failures,
};
const names = new Intl.Collator("en", { numeric: true });

export class Tree {
  /** `history` draws the small lines; `orders` are the dialogs that a row's buttons open. */
  constructor(history, orders) {
    this.table = byId("tree");
    this.body = this.table.tBodies[0];
    this.filter = byId("tree-filter");
    this.problems = byId("tree-problems");
    this.sort = null;
    this.toggled = new Map();
    this.shownBefore = [];
    const context = { history, orders, toggle: (pool) => this.#toggle(pool) };
    this.rows = new VirtualRows(byId("tree-scroller"), this.body, (item) => makeRow(item, context));
    this.filter.addEventListener("input", () => this.#changed());
    this.filter.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.filter.value) return;
      event.preventDefault();
      this.filter.value = "";
      this.#changed();
    });
    this.problems.addEventListener("change", () => this.#changed());
    for (const button of this.table.tHead.querySelectorAll("button[data-sort]")) {
      button.addEventListener("click", () => this.#sortBy(button.dataset.sort));
    }
    this.body.addEventListener("keydown", (event) => this.#step(event));
  }

  /** Show a round's model. */
  update(model) {
    this.model = model;
    this.#show(this.#held());
  }

  /** Show the row with this key, whatever the filter said before; `pool` is opened. */
  reveal(key, pool) {
    this.filter.value = "";
    this.problems.checked = false;
    this.toggled.set(pool, true);
    this.#changed();
    this.rows.reveal(key);
  }

  #changed() {
    if (this.model) this.#show(false);
  }

  #show(held) {
    let items = [...this.#items()];
    // Rows must not move under somebody's pointer.
    if (held) items = inOrderOf(this.shownBefore, items);
    this.shownBefore = items.map((item) => item.key);
    setAttribute(this.table, "aria-rowcount", items.length + 1);
    this.rows.show(items);
    const rows = items.filter((item) => item.kind !== "group").length;
    setShown(byId("tree-nothing"), rows === 0);
    const narrowed = this.filter.value.trim() || this.problems.checked;
    setText(
      byId("tree-nothing"),
      this.problems.checked && !this.filter.value ? "No problems." : "Nothing matches.",
    );
    setText(byId("tree-count"), narrowed ? `${count(rows)} ${rows === 1 ? "row" : "rows"}` : "");
    const all = [...this.model.listeners, ...this.model.pools.flatMap((one) => one.upstreams)];
    setText(byId("tree-problem-count"), count(all.filter((one) => one.problem).length));
  }

  *#items() {
    const text = this.filter.value.trim().toLowerCase();
    const only = this.problems.checked;
    const has = (...words) => !text || words.some((word) => word.toLowerCase().includes(text));
    const listeners = this.model.listeners.filter(
      (one) => (!only || one.problem) && has(one.name, ...one.addresses, ...one.pools),
    );
    if (listeners.length) yield { kind: "group", key: "listeners", name: "Listeners" };
    yield* this.#sorted(listeners);
    let headed = false;
    for (const pool of this.#sorted(this.model.pools)) {
      const whole = has(pool.name);
      const upstreams = pool.upstreams.filter(
        (one) => (!only || one.problem) && (whole || has(one.name)),
      );
      if (!upstreams.length && !(whole && (!only || pool.problem))) continue;
      if (!headed) yield { kind: "group", key: "pools", name: "Pools and their upstreams" };
      headed = true;
      const open = this.#open(pool);
      yield { ...pool, open };
      if (open) yield* this.#sorted(upstreams);
    }
  }

  #open(pool) {
    if (this.filter.value.trim() || this.problems.checked) return true;
    return this.toggled.get(pool.name) ?? pool.upstreams.length < COLLAPSED_FROM;
  }

  #sorted(items) {
    if (!this.sort) return items;
    const { column, descending } = this.sort;
    const value = SORT_BY[column];
    const compare =
      column === "name"
        ? (one, other) => names.compare(value(one), value(other))
        : (one, other) => value(one) - value(other);
    return [...items].sort((one, other) =>
      descending ? -compare(one, other) : compare(one, other),
    );
  }

  /** Numbers begin with the largest; a third click brings back the configuration's order. */
  #sortBy(column) {
    const first = column !== "name";
    if (this.sort?.column !== column) this.sort = { column, descending: first };
    else if (this.sort.descending === first) this.sort = { column, descending: !first };
    else this.sort = null;
    for (const button of this.table.tHead.querySelectorAll("button[data-sort]")) {
      const chosen = this.sort?.column === button.dataset.sort;
      const word = this.sort?.descending ? "descending" : "ascending";
      setAttribute(button.closest("th"), "aria-sort", chosen ? word : null);
    }
    this.#changed();
  }

  #toggle(pool) {
    this.toggled.set(pool.name, !this.#open(pool));
    this.#changed();
  }

  #held() {
    return this.sort && (this.body.matches(":hover") || this.body.contains(document.activeElement));
  }

  /** Up and down go from a row's control to the same one of the next row. */
  #step(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const control = event.target.closest("button");
    if (!by || !control) return;
    event.preventDefault();
    const reach = (row) => (by > 0 ? row.nextElementSibling : row.previousElementSibling);
    for (let row = reach(control.closest("tr")); row; row = reach(row)) {
      const same = row.querySelector(`button[data-does="${control.dataset.does}"]:not([hidden])`);
      if (same) {
        same.focus();
        return;
      }
    }
  }
}

/** The items in an order of before where they are the same ones; else as they come. */
function inOrderOf(keys, items) {
  if (keys.length !== items.length) return items;
  const byKey = new Map(items.map((item) => [item.key, item]));
  const found = keys.map((key) => byKey.get(key));
  return found.every(Boolean) ? found : items;
}
