// The page: asks the proxy in rounds, and has each part of the page show what it said.

import { Access } from "./access.js";
import { Api, Refused } from "./api.js";
import { startNotices } from "./dialog.js";
import { byId, setAttribute, setClass, setShown, setText } from "./dom.js";
import { Ends } from "./ends.js";
import { Flows } from "./flows.js";
import { duration, setClock } from "./format.js";
import { History } from "./history.js";
import { showHints } from "./hint.js";
import { build } from "./model.js";
import { News } from "./news.js";
import { Orders } from "./orders.js";
import { Poller } from "./poll.js";
import { Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { Summary } from "./summary.js";
import { Tree } from "./tree.js";

class Page {
  constructor() {
    this.access = new Access(() => this.#accessChanged());
    this.api = new Api(this.access);
    this.history = new History();
    this.poller = new Poller(() => this.#round(), (error, pause) => this.#failed(error, pause));
    const refresh = () => this.poller.now();
    this.orders = new Orders(this.api, refresh);
    this.summary = new Summary(this.history);
    this.tree = new Tree(this.history, this.orders);
    this.flows = new Flows((node) => this.#reveal(node));
    this.ends = new Ends((only) => this.#filter(only));
    this.sessions = new Sessions(this.api, this.orders, refresh);
    this.news = new News(this.api, () => {
      this.ends.clear();
      this.#filter(null);
    });
    this.stream = new Stream(this.api, {
      onOpen: () => this.news.opened(),
      onItem: (kind, data) => this.news.take(kind, data),
      onClosed: (error) => this.news.closed(error),
    });
    this.refreshHint = showHints();
    this.pid = null;
    this.answered = 0;
  }

  start() {
    startNotices();
    startThemes();
    byId("pause").addEventListener("click", () => this.#pause(!this.poller.paused));
    document.addEventListener("keydown", (event) => this.#shortcut(event));
    this.#show("connecting", "connecting");
    this.#filter(null);
    this.poller.now();
    setInterval(() => this.#showWait(), 1000);
  }

  /** Ask for everything once, and show it. */
  async #round() {
    const traffic = await this.api.get("traffic");
    const status = await this.api.get("status");
    setClock(traffic.time);
    if (status.pid !== this.pid) this.history.forget(); // another process, which counts from 0
    this.pid = status.pid;
    if (this.history.missing) this.history.load(await this.api.get("history"));
    this.history.append(traffic);
    const model = build(status, traffic);
    this.orders.model = model;
    this.access.show(status.writable);
    setClass(document.body, "writable", status.writable);
    for (const part of [this.summary, this.tree, this.flows, this.ends, this.news]) part.update(model);
    this.answered = Date.now();
    if (this.broken) this.stream.wake();
    this.broken = null;
    this.#show("live", "live");
    await this.sessions.round(model);
    this.refreshHint();
  }

  #failed(error, pause) {
    const denied = error instanceof Refused && error.status === 401;
    if (!(error instanceof Refused) && error.constructor === Error) console.error(error);
    this.broken = { error, until: Date.now() + pause };
    this.#show(denied ? "denied" : "lost", denied ? "no access" : "reconnecting");
    this.#showWait();
  }

  /** The line that says since when nobody answers, and when the next try is. */
  #showWait() {
    if (!this.broken || this.poller.paused) return;
    const since = this.answered ? ` for ${duration((Date.now() - this.answered) / 1000)}` : "";
    const wait = Math.max(0, Math.ceil((this.broken.until - Date.now()) / 1000));
    const { error } = this.broken;
    const told =
      error instanceof Refused
        ? error.status === 401
          ? "This proxy shows itself to those who have its token."
          : `The proxy refused: ${error.message}.`
        : `No answer from ${location.host}${since}. ${this.answered ? "What stands here is what it said last." : ""}`;
    setText(byId("lost-text"), told);
    setText(byId("lost-wait"), wait ? `Trying again in ${wait} s.` : "Trying now.");
  }

  #show(state, word) {
    const node = byId("connection");
    setAttribute(node, "class", `connection ${state}`);
    setText(byId("connection-word"), word);
    setClass(document.body, "stale", state === "lost" || state === "denied");
    setClass(document.body, "empty", !this.answered);
    setShown(byId("lost"), state === "lost" || state === "denied");
  }

  #pause(paused) {
    this.poller.pause(paused);
    this.news.pause(paused);
    setAttribute(byId("pause"), "aria-pressed", paused);
    setText(byId("pause-word"), paused ? "go on" : "pause");
    setAttribute(byId("pause-icon"), "href", paused ? "#icon-play" : "#icon-pause");
    if (paused) this.#show("paused", "paused");
  }

  #accessChanged() {
    this.stream.again();
    this.poller.now();
  }

  #filter(only) {
    this.stream.open(this.news.filter(only));
  }

  #reveal({ key, name }) {
    const [kind, pool] = key.split("/");
    if (kind === "upstream") this.tree.reveal(pool, name);
    else if (kind === "listener") this.tree.reveal(name);
    else this.tree.reveal(pool);
  }

  /** `/` leads to the filter, as in many programs. */
  #shortcut(event) {
    const typing = event.target.closest("input, select, textarea, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    byId("tree-filter").focus();
    byId("tree-filter").select();
  }
}

const THEMES = ["auto", "light", "dark"];

function startThemes() {
  const button = byId("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    setText(byId("theme-word"), theme);
    setAttribute(byId("theme-icon"), "href", `#icon-theme-${theme}`);
  };
  show(document.documentElement.dataset.theme ?? "auto");
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "auto";
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    localStorage.setItem("spliceproxy.theme", next);
    show(next);
  });
}

new Page().start();
