// Why sessions ended: a bar for each (closed_by, why); errors have a scale of their own.

import {
  byId,
  Cell,
  icon,
  Keyed,
  make,
  placeInOrder,
  setAttribute,
  setShown,
  setText,
} from "./dom.js";
import { count, percent, perSecond } from "./format.js";
import { howWords, whySentence } from "./words.js";

export class Ends {
  /** `choose({closed_by, why})` is called when somebody clicks a bar; null: all again. */
  constructor(choose) {
    this.choose = choose;
    this.chosen = null;
    this.rows = new Keyed((item) => new EndRow(item, (row) => this.#click(row)));
    this.groups = [
      { body: byId("ends-errors"), about: byId("ends-errors-about"), error: true },
      { body: byId("ends-normal"), about: byId("ends-normal-about"), error: false },
    ];
  }

  update({ traffic }) {
    const items = together(traffic.ends);
    const all = items.reduce((sum, item) => sum + item.count, 0);
    setShown(byId("ends-nothing"), items.length === 0);
    const found = [];
    for (const { body, about, error } of this.groups) {
      const own = items.filter((item) => item.error === error);
      const most = Math.max(1, ...own.map((item) => item.count));
      const sum = own.reduce((total, item) => total + item.count, 0);
      found.push(
        ...own.map((item) => ({
          ...item,
          body,
          share: item.count / most,
          chosen: this.chosen === item.key,
        })),
      );
      setShown(body, own.length > 0);
      setText(about, `${count(sum)}, ${percent(sum / (all || 1))}`);
    }
    const nodes = this.rows.nodes(found);
    for (const { body } of this.groups) {
      const own = nodes.filter((_node, index) => found[index].body === body);
      placeInOrder(body, own, body.firstElementChild);
    }
    this.items = items;
  }

  /** Have nothing chosen: the filter was taken away elsewhere. */
  clear() {
    this.chosen = null;
    for (const row of this.rows.known.values()) row.press(false);
  }

  #click({ key, closed_by: closedBy, why }) {
    this.chosen = this.chosen === key ? null : key;
    for (const [own, row] of this.rows.known) row.press(own === this.chosen);
    this.choose(this.chosen ? { closedBy, why } : null);
  }
}

/** The ends with `how` left out, most first. */
function together(ends) {
  const found = new Map();
  for (const { closed_by, how, why, error, count: number, rate } of ends) {
    const key = `${closed_by}/${why}`;
    const item = found.get(key) ?? { key, closed_by, why, error, count: 0, rate: 0, hows: [] };
    item.count += number;
    item.rate += rate;
    item.hows.push(`${howWords(how)} ${count(number)}`);
    found.set(key, item);
  }
  return [...found.values()].sort(
    (one, other) => other.count - one.count || one.key.localeCompare(other.key),
  );
}

class EndRow {
  constructor(item, click) {
    this.item = item;
    const sentence = whySentence(item.why);
    const about = `about-${item.closed_by}-${item.why}`;
    this.button = make("button", {
      type: "button",
      class: "why",
      "aria-describedby": about,
      "aria-pressed": "false",
      text: item.why,
    });
    this.button.addEventListener("click", () => click(this.item));
    this.bar = make("span", { class: "bar" });
    this.rate = new Cell("td", "number");
    this.count = new Cell("td", "number");
    this.sentence = sentence;
    this.node = make(
      "tr",
      { class: item.error ? "error" : "" },
      make(
        "th",
        { scope: "row" },
        icon(item.error ? "error" : "up"),
        this.button,
        make("span", { id: about, class: "unseen", text: sentence }),
      ),
      make("td", { class: "by", text: item.closed_by }),
      make("td", { class: "bar-cell", "aria-hidden": "true" }, this.bar),
      this.rate.node,
      this.count.node,
    );
  }

  update(item) {
    this.item = item;
    const scale = `${Math.max(0.01, item.share).toFixed(3)} 1`;
    if (this.bar.style.scale !== scale) this.bar.style.scale = scale;
    this.rate.show(item.rate > 0 ? `${perSecond(item.rate)}/s` : "0", item.rate > 0 ? "" : "zero");
    this.count.show(count(item.count));
    setAttribute(
      this.button,
      "data-hint",
      `${this.sentence}\n${item.closed_by}: ${item.hows.join(", ")}`,
    );
    this.press(item.chosen);
  }

  press(pressed) {
    setAttribute(this.button, "aria-pressed", Boolean(pressed));
  }
}
