// The token: where it comes from, where it is kept, and the form that asks for it.

import { ask, closeDialog, labelled, notice } from "./dialog.js";
import { byId, make, setAttribute, setText } from "./dom.js";

const KEY = "spliceproxy.token";
const NO_ORDERS =
  "This token gives no orders: it is for reading, or of a proxy that has started anew since.";
const REFUSED =
  "The token is not accepted any more; `spliceproxy dashboard` prints a link with the one that is.";

/** Keeps the token for as long as this tab lives, and no longer. */
export class Access {
  /** `changed()` is called when there is another token, or none. */
  constructor(changed) {
    this.changed = changed;
    this.token = sessionStorage.getItem(KEY) ?? "";
    this.asked = false;
    this.writable = null;
    this.#takeFromAddress();
    addEventListener("hashchange", () => this.#takeFromAddress() && this.changed());
    byId("lock").addEventListener("click", () => this.#lockDialog());
  }

  /** A link from `spliceproxy dashboard` carries a token behind the #, which is sent nowhere. */
  #takeFromAddress() {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    if (token == null) return false;
    this.#keep(token);
    history.replaceState(null, "", location.pathname + location.search);
    return true;
  }

  #keep(token) {
    this.token = token;
    this.asked = false;
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  }

  /** The proxy did not take this token, or wants one. */
  refused(token) {
    if (token !== this.token) return; // another one was entered meanwhile
    if (token) {
      this.#keep("");
      notice(REFUSED, true);
      this.changed();
    } else {
      this.#askForToken();
    }
  }

  /** Show whether orders can be given. */
  show(writable) {
    if (writable === this.writable) return;
    const opened = this.writable === false && writable;
    this.writable = writable;
    const lock = byId("lock");
    setText(byId("lock-word"), writable ? "writable" : "read-only");
    setAttribute(byId("lock-icon"), "href", writable ? "#icon-unlocked" : "#icon-locked");
    setAttribute(
      lock,
      "data-hint",
      writable
        ? "Orders can be given: drain, weight, reset, reload, log level."
        : "Orders (drain, weight, reset, reload, log level) need the write token.",
    );
    if (opened) notice("Orders can be given now.");
    else if (!writable && this.token) notice(NO_ORDERS, true);
  }

  /** Without a token nothing can be read. Whoever cancels is not asked again. */
  #askForToken() {
    if (this.asked) return;
    this.asked = true;
    this.#tokenDialog(
      "A token is needed",
      "This proxy shows itself to those who have its token.",
      "Open",
    );
  }

  #lockDialog() {
    if (this.token) {
      ask({
        title: this.writable ? "Lock this page?" : "Forget the token?",
        sentences: ["The token is forgotten; it is needed again to give orders."],
        action: this.writable ? "Lock" : "Forget",
        run: async () => {
          this.#keep("");
          this.changed();
        },
      });
    } else if (this.writable) {
      ask({
        title: "Orders can be given",
        sentences: [
          "This way in needs no token: whoever comes by it may drain, reset, reload and so on.",
        ],
        action: "Good",
        run: async () => {},
      });
    } else {
      const text = "Orders (drain, weight, reset, reload, log level) need the write token.";
      this.#tokenDialog("Give orders from this page", text, "Unlock");
    }
  }

  #tokenDialog(title, text, action) {
    const input = make("input", {
      type: "password",
      id: "token",
      autocomplete: "off",
      spellcheck: "false",
      required: "",
    });
    ask({
      title,
      sentences: [
        text,
        "`spliceproxy dashboard` prints a link with it; or enter the token itself.",
      ],
      fields: [labelled("Token", input)],
      action,
      run: async () => {
        this.#keep(input.value.trim());
        closeDialog();
        this.changed();
      },
    });
    input.focus();
  }
}
