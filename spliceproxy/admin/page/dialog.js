// The one dialog that asks before an order is given, and the line that tells what came of it.

import { byId, make, setClass, setShown, setText } from "./dom.js";

const NOTICE_TIME = 12_000;
let noticeTimer = 0;
/** How often it was asked: an order that ends in a later turn leaves the dialog alone. */
let turn = 0;

/** Tell something in the line at the foot of the page; it goes after a while, or by its button. */
export function notice(text, failed = false) {
  const line = byId("notice");
  clearTimeout(noticeTimer);
  setLines(byId("notice-text"), text);
  line.classList.toggle("failed", failed);
  setShown(line, Boolean(text));
  if (text && !failed) noticeTimer = setTimeout(() => notice(""), NOTICE_TIME);
}

/** Have the notice's button work. */
export function startNotices() {
  byId("notice-close").addEventListener("click", () => notice(""));
}

/**
 * Ask before something is done. `title`, `sentences` (what will happen) and `fields` (elements) are
 * shown; `action` names the button; `run()` does it and returns what to tell afterwards: a
 * sentence, or `{sentence, lines}`, which the dialog itself shows. While it fails the dialog stays
 * open, with the reason. Cancel, Escape and a click beside it do nothing; once an order is under
 * way they only close the dialog, and the notice tells what came of it.
 */
export function ask({ title, sentences, fields = [], action, danger = false, run }) {
  const dialog = byId("ask");
  const [form, submit] = [byId("ask-form"), byId("ask-submit")];
  const mine = (turn += 1);
  setText(byId("ask-title"), title);
  byId("ask-text").replaceChildren(...sentences.filter(Boolean).map((text) => make("p", { text })));
  byId("ask-fields").replaceChildren(...fields);
  byId("ask-told").replaceChildren();
  setText(byId("ask-cancel"), "Cancel");
  setShown(submit, true);
  setText(submit, action);
  submit.classList.toggle("danger", danger);
  setError("");
  submit.disabled = false;

  form.onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    setError("");
    let told = null;
    let failure = null;
    try {
      told = await run();
    } catch (error) {
      failure = error;
    }
    if (mine !== turn || !dialog.open) {
      if (failure) notice(failure.message, true);
      else if (told) notice(told.sentence ?? told);
      return;
    }
    submit.disabled = false;
    if (failure) {
      setError(failure.message);
    } else if (told?.lines) {
      tell(told);
    } else {
      dialog.close();
      if (told) notice(told);
    }
  };
  byId("ask-cancel").onclick = () => dialog.close();
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close();
  };
  dialog.showModal();
  byId("ask-cancel").focus(); // Enter must not do what nobody has read yet
}

/** Have the dialog show what came of it, in place of what it asked. */
function tell({ sentence, lines }) {
  byId("ask-text").replaceChildren();
  byId("ask-fields").replaceChildren();
  const list = make("ul", {}, ...lines.map((text) => make("li", { text })));
  byId("ask-told").replaceChildren(make("p", { text: sentence }), list);
  setShown(byId("ask-submit"), false);
  setText(byId("ask-cancel"), "Close");
  byId("ask-cancel").focus();
}

function setError(text) {
  setLines(byId("ask-error"), text);
}

/** Several lines show a place in a file, with a mark below it: letters have to be equally wide. */
function setLines(node, text) {
  setText(node, text);
  setClass(node, "in-file", text.includes("\n"));
}

/** Close the dialog, whatever it asks. */
export function closeDialog() {
  byId("ask").close();
}

/** A field and its label; `after` stands behind it. */
export function labelled(text, input, after = "") {
  return make("label", { class: "field" }, make("span", { text }), input, after);
}
