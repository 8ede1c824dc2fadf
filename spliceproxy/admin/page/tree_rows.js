// One row of the table of listeners, pools and upstreams.

import { Sparkline } from "./charts.js";
import { Cell, icon, make, setAttribute, setClass, setShown, setText } from "./dom.js";
import { bytes, count, listed, milliseconds, perSecond, plural, rate } from "./format.js";

/** `context`: `history`, `orders`, and `toggle(pool)`, which opens and closes a pool. */
export function makeRow(item, context) {
  return item.kind === "group" ? new GroupRow(item) : new NumbersRow(item, context);
}

class GroupRow {
  constructor(item) {
    this.node = make(
      "tr",
      { class: "group" },
      make("th", { scope: "rowgroup", colspan: 2, text: item.name }),
    );
  }

  update() {}
}

class NumbersRow {
  constructor(item, context) {
    this.context = context;
    this.item = item;
    this.drawn = 0;
    this.name = make("span", { class: "name" });
    this.about = new Cell("span", "about");
    this.state = new Cell("span", "state-word");
    this.shape = icon("up");
    this.sessions = new Cell("td", "number");
    this.up = new Cell("td", "number col-up");
    this.down = new Cell("td", "number col-down");
    this.p50 = new Cell("td", "number col-p50");
    this.p99 = new Cell("td", "number col-p99");
    this.errors = new Cell("td", "number col-errors");
    this.spark = new Sparkline();
    this.weight = new Cell("span", "");
    this.weightButton = this.#button("weight", () => context.orders.weight(this.item));
    this.drain = this.#button("drain", () => context.orders.drain(this.item));
    this.stateCell = make("td", { class: "col-state" }, this.shape, this.state.node);
    this.node = make(
      "tr",
      { class: item.kind },
      make("th", { scope: "row", class: "col-name" }, ...this.#caret(), this.name, this.about.node),
      this.stateCell,
      this.sessions.node,
      this.up.node,
      this.down.node,
      this.p50.node,
      this.p99.node,
      this.errors.node,
      make("td", { class: "col-spark" }, this.spark.node),
      make("td", { class: "number col-weight" }, this.weight.node, this.weightButton),
      make("td", { class: "col-order" }, this.drain),
    );
  }

  update(item) {
    this.item = item;
    const { traffic, sessions } = item;
    const { rates, connect_ms: connect } = traffic;
    setText(this.name, item.name);
    this.about.show(...about(item));
    this.#showState(item);
    const most = item.max_sessions;
    const full = most && sessions >= 0.9 * most;
    this.sessions.show(
      count(sessions),
      tone(sessions, full),
      most ? `${count(sessions)} of at most ${count(most)}` : "",
    );
    this.up.show(
      rate(rates.bytes_up),
      tone(rates.bytes_up >= 0.5),
      moved("up", traffic.bytes_up, traffic.spliced_up),
    );
    this.down.show(
      rate(rates.bytes_down),
      tone(rates.bytes_down >= 0.5),
      moved("down", traffic.bytes_down, traffic.spliced_down),
    );
    this.p50.show(milliseconds(connect.p50), tone(connect.p50 != null));
    this.p99.show(
      milliseconds(connect.p99),
      tone(connect.p99 != null),
      connect.count ? `of ${plural(connect.count, "connect")} in the last minute` : "",
    );
    const wrong = rates.errors + rates.connect_failures;
    this.errors.show(perSecond(wrong), tone(wrong, wrong > 0), errorsHint(traffic));
    this.#showLine(item);
    this.#showOrders(item);
    setClass(this.node, "off", item.drained || item.state.shape === "down");
  }

  #showState({ state, states }) {
    setAttribute(this.shape.firstChild, "href", `#icon-${state.shape}`);
    setAttribute(this.shape, "class", `icon state-${state.shape}`);
    this.state.show(state.word, "", state.hint ?? (states?.length > 1 ? states.join(", ") : ""));
  }

  #showLine(item) {
    const { history } = this.context;
    if (this.drawn === history.version) return;
    this.drawn = history.version;
    this.spark.draw(history.throughput(item.key));
  }

  #showOrders(item) {
    const { name, kind, drained } = item;
    setText(this.drain, drained ? "undrain" : "drain");
    setAttribute(this.drain, "aria-label", `${drained ? "undrain" : "drain"} ${kind} ${name}`);
    if (kind === "upstream") {
      const { weight, configured_weight: configured } = item;
      const set = configured != null && weight !== configured;
      const text = set ? `${weight} (${configured})` : count(weight);
      const hint = set ? `Somebody set the weight; the configuration says ${configured}.` : "";
      this.weight.show(text, set ? "set" : "", hint);
      setText(this.weightButton, text);
      setClass(this.weightButton, "set", set);
      setAttribute(this.weightButton, "aria-label", `weight of ${name}: ${weight}, change`);
    }
    setShown(this.weightButton, kind === "upstream");
    if (kind === "pool") setAttribute(this.caret, "aria-expanded", item.open);
    if (kind === "pool") setAttribute(this.caret, "aria-label", `upstreams of ${name}`);
  }

  #caret() {
    if (this.item.kind !== "pool") return [];
    this.caret = this.#button("open", () => this.context.toggle(this.item));
    this.caret.className = "caret";
    this.caret.append(icon("caret"));
    return [this.caret];
  }

  #button(does, onClick) {
    const button = make("button", { type: "button", class: "quiet", "data-does": does });
    button.addEventListener("click", onClick);
    return button;
  }
}

function about(item) {
  if (item.kind === "listener") {
    const pools = listed(item.pools, 3);
    return [
      [item.addresses.join(", "), item.tls ? "TLS" : "", pools && `→ ${pools}`]
        .filter(Boolean)
        .join("  "),
      "",
      [
        item.addresses.join("\n"),
        ...(item.routes ?? []).map(routeWords),
        item.pool && `else → ${item.pool}`,
      ]
        .filter(Boolean)
        .join("\n"),
    ];
  }
  if (item.kind === "pool") {
    const words = [
      item.waiting ? `${count(item.waiting)} waiting` : "",
      item.balance,
      item.required ? "required" : "",
    ];
    const used = item.usedBy.length
      ? `Used by ${listed(item.usedBy, 10)}.`
      : "No listener uses it.";
    return [words.filter(Boolean).join(", "), item.waiting ? "warn" : "", used];
  }
  return [
    item.tier ? `tier ${item.tier}` : "",
    "",
    item.tier ? "Used when lower tiers have none." : "",
  ];
}

function routeWords(route) {
  return `${route.match} → ${route.pools.map((one) => one.pool).join(", ")}`;
}

function tone(value, alarming = false) {
  if (alarming) return "alarm";
  return value ? "" : "zero";
}

function moved(way, all, spliced) {
  return all
    ? `${bytes(all)} ${way} since the start${spliced ? `, ${bytes(spliced)} of it spliced` : ""}`
    : "";
}

function errorsHint({ errors, retries, connect_failures: failures }) {
  const words = [errors && plural(errors, "error"), retries && `${count(retries)} retried`];
  for (const [why, number] of Object.entries(failures))
    if (number) words.push(`${why} ${count(number)}`);
  const found = words.filter(Boolean);
  return found.length ? `${found.join(", ")} since the start` : "";
}
