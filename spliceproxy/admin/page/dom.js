// Making elements, and changing only what differs: an update that says the same writes nothing.

const SVG = "http://www.w3.org/2000/svg";

/** A new element. `attributes`: `text`, and whatever setAttribute takes; null leaves out. */
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** A new SVG element. */
export function makeSvg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else setAttribute(node, key, value);
  }
  node.append(...children);
  return node;
}

/** The one element with this id. */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no #${id}`);
  return node;
}

/** Have `node` hold this text alone. */
export function setText(node, text) {
  const only = node.firstChild;
  if (only && only === node.lastChild && only.nodeType === Node.TEXT_NODE) {
    if (only.data !== text) only.data = text;
  } else if (only || text) {
    node.textContent = text;
  }
}

/** Set an attribute; null removes it. */
export function setAttribute(node, name, value) {
  if (value == null) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value);
  }
}

/** Add or remove a class. */
export function setClass(node, name, on) {
  if (node.classList.contains(name) !== Boolean(on)) node.classList.toggle(name, Boolean(on));
}

/** Show or hide an element. */
export function setShown(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
}

/**
 * Have the children of `parent` between `first` and `last` (either may be null: from the beginning,
 * to the end) be `nodes`, in this order. What stands in its place already is not moved.
 */
export function placeInOrder(parent, nodes, first = null, last = null) {
  const wanted = new Set(nodes);
  let next = first ? first.nextSibling : parent.firstChild;
  for (const node of nodes) {
    while (next !== last && next !== node && !wanted.has(next)) {
      const stale = next;
      next = next.nextSibling;
      stale.remove();
    }
    if (next === node) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next !== last) {
    const stale = next;
    next = next.nextSibling;
    stale.remove();
  }
}

/** Elements by key, made when first asked for, forgotten when a round of updates left them out. */
export class Keyed {
  /** `create(item)` makes an object with `node` and `update(item)`. */
  constructor(create) {
    this.create = create;
    this.known = new Map();
  }

  /** The nodes for these items (each with a `key`), all of them up to date. */
  nodes(items) {
    const before = this.known;
    this.known = new Map();
    return items.map((item) => {
      const row = before.get(item.key) ?? this.create(item);
      this.known.set(item.key, row);
      row.update(item);
      return row.node;
    });
  }
}

/** A place whose text, class and hint are written only when they differ. */
export class Cell {
  constructor(name, className) {
    this.node = make(name, { class: className });
    this.base = className;
    this.text = "";
    this.state = "";
    this.hint = "";
  }

  show(text, state = "", hint = "") {
    if (text !== this.text) setText(this.node, (this.text = text));
    if (state !== this.state) {
      this.state = state;
      this.node.className = state ? `${this.base} ${state}` : this.base;
    }
    if (hint !== this.hint) setAttribute(this.node, "data-hint", (this.hint = hint) || null);
  }
}

/** An icon of the page's sprite; decoration, what it says stands beside it as text. */
export function icon(name) {
  const use = makeSvg("use", { href: `#icon-${name}` });
  return makeSvg("svg", { class: "icon", "aria-hidden": "true", viewBox: "0 0 16 16" }, use);
}
