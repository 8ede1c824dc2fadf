// The page: asks the proxy in rounds, and has each part of the page show what it said.

import { Access } from "./access.js";
import { Api, Refused, Unreachable } from "./api.js";
import { notice, startNotices } from "./dialog.js";
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
    this.poller = new Poller(
      () => this.#round(),
      (error, pause) => this.#failed(error, pause),
    );
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
    this.version = "";
    this.answered = 0;
    this.broken = null;
  }

  start() {
    startNotices();
    startThemes();
    byId("pause").addEventListener("click", () => this.#pause(!this.poller.paused));
    byId("reload").addEventListener("click", () => this.orders.reload());
    byId("log-level").addEventListener("click", () => this.orders.logLevel());
    document.addEventListener("keydown", (event) => this.#shortcut(event));
    this.#showState();
    this.#filter(null);
    this.poller.now();
    setInterval(() => this.#showWait(), 1000);
  }

  /** Ask for everything once, and show it at once: each painting of the page costs by itself. */
  async #round() {
    // A worker may be silent for seconds: the rest is asked meanwhile.
    const asked = this.sessions.ask();
    asked.catch(() => {}); // where the rest fails first, nobody waits for it
    const traffic = await this.api.get("traffic");
    setClock(traffic.time);
    const status = await this.api.get("status");
    const sessions = await asked;
    this.#meet(status);
    if (this.history.missing) this.history.load(await this.api.get("history"));
    this.history.append(traffic);
    const model = build(status, traffic);
    this.orders.model = model;
    this.access.show(status.writable);
    setClass(document.body, "writable", status.writable);
    for (const part of [this.summary, this.tree, this.flows, this.ends, this.news])
      part.update(model);
    this.answered = Date.now();
    if (this.broken) this.stream.wake();
    this.broken = null;
    this.#showState();
    this.sessions.update(model, sessions);
    this.refreshHint();
  }

  /** Another process counts from 0, and another version may have another page. */
  #meet({ pid, version }) {
    if (pid !== this.pid) this.history.forget();
    if (this.version && version !== this.version)
      notice(
        `spliceproxy ${version} runs now. Reload this page to have the one that belongs to it.`,
      );
    this.pid = pid;
    this.version = version;
  }

  #failed(error, pause) {
    if (!(error instanceof Refused || error instanceof Unreachable)) console.error(error);
    this.broken = { error, until: Date.now() + pause };
    this.#showState();
    this.#showWait();
  }

  /** Say when the next try is; once a second, so not to those who have the page read to them. */
  #showWait() {
    if (!this.broken) return;
    const wait = Math.max(0, Math.ceil((this.broken.until - Date.now()) / 1000));
    const since = this.answered
      ? `The last answer was ${duration((Date.now() - this.answered) / 1000)} ago; `
      : "";
    setText(byId("lost-wait"), `${since}trying again ${wait ? `in ${wait} s` : "now"}.`);
  }

  #showState() {
    const [state, word] = this.#state();
    setAttribute(byId("connection"), "class", `connection ${state}`);
    setText(byId("connection-word"), word);
    setClass(document.body, "stale", state === "lost");
    setClass(document.body, "empty", !this.answered);
    setShown(byId("lost"), state === "lost");
    if (state !== "lost") return;
    setText(
      byId("lost-text"),
      `${this.#reason()} ${this.answered ? "What stands here is what it said last." : ""}`,
    );
    document.title = `${word} · spliceproxy`;
  }

  /** The connection's state, as a class and as a word. */
  #state() {
    if (this.poller.paused) return ["paused", "paused"];
    if (this.broken?.error.status === 401) return ["lost", "no access"];
    if (this.broken) return ["lost", "reconnecting"];
    return this.answered ? ["live", "live"] : ["connecting", "connecting"];
  }

  #reason() {
    const { error } = this.broken;
    if (error.status === 401) return "This proxy shows itself to those who have its token.";
    if (error instanceof Refused) return `The proxy refused: ${error.message}.`;
    if (error instanceof Unreachable) return `No answer from ${location.host}.`;
    return `This page has a fault: ${error.message}.`;
  }

  #pause(paused) {
    this.poller.pause(paused);
    this.news.pause(paused);
    setAttribute(byId("pause"), "aria-pressed", paused);
    setText(byId("pause-word"), paused ? "go on" : "pause");
    setAttribute(byId("pause-icon"), "href", paused ? "#icon-play" : "#icon-pause");
    this.#showState();
  }

  #accessChanged() {
    this.stream.again();
    this.poller.now();
  }

  #filter(only) {
    this.stream.open(this.news.filter(only));
  }

  /** Show in the table what was clicked among the ribbons. */
  #reveal({ key }) {
    const [kind, pool] = key.split("/");
    if (kind === "others") this.tree.reveal(`pool/${pool}`, pool);
    else this.tree.reveal(key, pool);
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
