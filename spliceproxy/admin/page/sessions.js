// Live sessions: filtered, sorted and paged by the proxy, which alone can see all of them.

import { Unreachable } from "./api.js";
import { byId, Keyed, make, placeInOrder, setAttribute, setShown, setText } from "./dom.js";
import { count, duration, silentWords } from "./format.js";
import { SessionRow } from "./session_rows.js";

const PAGE = 50;
/** Milliseconds after the last letter: half an address is an error to the proxy. */
const TYPING = 250;
const SUGGESTED = 20;
const FILTERS = ["client", "listener", "pool", "upstream", "min_idle"];

export class Sessions {
  /** `refresh()` has a round begin; `orders` are the dialogs. */
  constructor(api, orders, refresh) {
    Object.assign(this, { api, orders, refresh });
    this.table = byId("sessions");
    this.body = this.table.tBodies[0];
    this.sort = "age";
    this.offset = 0;
    this.matching = 0;
    this.inSight = true;
    this.rows = new Keyed(() => new SessionRow((session) => orders.resetOne(session)));
    this.inputs = Object.fromEntries(FILTERS.map((name) => [name, byId(`sessions-${name}`)]));
    const section = byId("sessions-section");
    new IntersectionObserver(([entry]) => {
      const came = !this.inSight && entry.isIntersecting;
      this.inSight = entry.isIntersecting;
      if (came) refresh();
    }).observe(section);
    byId("sessions-filters").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.#asked(), TYPING);
      byId("sessions-reset").disabled = true; // it speaks of the sessions of the filter before
    });
    byId("sessions-filters").addEventListener("submit", (event) => event.preventDefault());
    for (const button of this.table.tHead.querySelectorAll("button[data-sort]")) {
      button.addEventListener("click", () => this.#sortBy(button.dataset.sort));
    }
    byId("sessions-previous").addEventListener("click", () => this.#page(-PAGE));
    byId("sessions-next").addEventListener("click", () => this.#page(PAGE));
    byId("sessions-reset").addEventListener("click", () => this.#resetAll());
  }

  /** The filters in force, as the API names them. */
  where() {
    const found = {};
    for (const [name, input] of Object.entries(this.inputs)) {
      const value = input.value.trim();
      if (value) found[name] = name === "min_idle" ? Number(value) : value;
    }
    return found;
  }

  /**
   * The page in sight, or `{complaint, wrong}`: why there is none, and whether that is a filter's
   * fault; null while nobody sees the table: then nothing is asked.
   */
  async ask() {
    if (!this.inSight || document.hidden) return null;
    const asked = this.#question();
    return { ...(await this.#answer(asked)), asked: JSON.stringify(asked) };
  }

  #question() {
    return { ...this.where(), sort: this.sort, offset: this.offset, limit: PAGE };
  }

  async #answer(asked) {
    try {
      return await this.api.get("sessions", asked);
    } catch (error) {
      if (error instanceof Unreachable) return { complaint: "no answer about sessions in time", wrong: false };
      if (error.status !== 400 && error.status !== 409) throw error;
      // Half an address was typed, say; or too many ask at the same time.
      return { complaint: error.message, wrong: error.status === 400 };
    }
  }

  /** Show what `ask` brought, unless something else is wanted by now. */
  update(model, answer) {
    this.#offerNames(model);
    if (!answer) return;
    if (answer.asked !== JSON.stringify(this.#question())) {
      byId("sessions-reset").disabled = true; // a name that is gone may have been chosen
      return;
    }
    this.#complain(answer);
    if (!answer.complaint) this.#show(answer);
  }

  #show(answer) {
    const { matching, offset, sessions, process } = answer;
    this.matching = matching;
    if (offset && offset >= matching) {
      this.offset = Math.max(0, Math.floor((matching - 1) / PAGE) * PAGE);
      this.refresh();
      return;
    }
    const items = sessions.map((session) => ({
      ...session,
      key: session.session,
      older: session.process !== process,
    }));
    placeInOrder(this.body, this.rows.nodes(items));
    setAttribute(this.table, "aria-rowcount", matching + 1);
    const last = offset + sessions.length;
    setText(
      byId("sessions-range"),
      matching ? `${count(offset + 1)}–${count(last)} of ${count(matching)}` : "none",
    );
    byId("sessions-previous").disabled = offset === 0;
    byId("sessions-next").disabled = last >= matching;
    const filtered = Object.keys(this.where()).length > 0;
    setShown(byId("sessions-nothing"), matching === 0);
    setText(byId("sessions-nothing"), filtered ? "No session matches." : "Nobody is connected.");
    const reset = byId("sessions-reset");
    reset.disabled = !filtered || matching === 0;
    setText(reset, filtered && matching ? `Reset ${count(matching)}…` : "Reset matching…");
    setAttribute(
      reset,
      "data-hint",
      filtered ? null : "Choose by a filter first whose sessions are meant.",
    );
    setText(byId("sessions-silent"), silentWords(answer, "sessions are missing here."));
  }

  #complain({ complaint = "", wrong = false }) {
    setText(byId("sessions-complaint"), complaint);
    setShown(byId("sessions-complaint"), Boolean(complaint));
    setAttribute(this.inputs.client, "aria-invalid", wrong ? "true" : null);
  }

  #offerNames(model) {
    offer(
      this.inputs.listener,
      model.listeners.map((one) => one.name),
    );
    offer(
      this.inputs.pool,
      model.pools.map((one) => one.name),
    );
    const pool = this.inputs.pool.value;
    const pools = pool ? model.pools.filter((one) => one.name === pool) : model.pools;
    const typed = this.inputs.upstream.value.trim();
    const names = new Set(pools.flatMap((one) => one.upstreams.map((upstream) => upstream.name)));
    const fitting = [...names].filter((name) => name.includes(typed));
    offer(byId("upstream-names"), fitting.slice(0, SUGGESTED), 0);
  }

  #asked() {
    this.offset = 0;
    this.refresh();
  }

  #page(by) {
    this.offset = Math.max(0, this.offset + by);
    this.refresh();
  }

  #sortBy(column) {
    this.sort = this.sort === column ? `-${column}` : column;
    this.offset = 0;
    for (const button of this.table.tHead.querySelectorAll("button[data-sort]")) {
      const own = button.dataset.sort;
      const word = this.sort === own ? "descending" : this.sort === `-${own}` ? "ascending" : null;
      setAttribute(button.closest("th"), "aria-sort", word);
    }
    this.refresh();
  }

  #resetAll() {
    const where = this.where();
    const words = Object.entries(where).map(([name, value]) =>
      name === "min_idle" ? `at least ${duration(value)} of silence` : `${name} ${value}`,
    );
    this.orders.resetAll(where, words.join(", "), this.matching);
  }
}

/** Have a select (or a datalist) offer these names behind its first `kept` options. */
function offer(list, names, kept = 1) {
  const { options } = list;
  const same =
    options.length === names.length + kept &&
    names.every((name, index) => options[index + kept].value === name);
  if (same) return;
  const chosen = list.value;
  while (options.length > kept) options[kept].remove();
  list.append(...names.map((name) => make("option", { value: name, text: name })));
  if (chosen && names.includes(chosen)) list.value = chosen;
}
