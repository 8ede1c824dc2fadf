// The one dialog that asks before an order is given, and the line that tells what came of it.

import { byId, make, setShown, setText } from "./dom.js";

const NOTICE_TIME = 12_000;
let noticeTimer = 0;

/** Tell something in the line at the foot of the page; it goes after a while, or by its button. */
export function notice(text, failed = false) {
  const line = byId("notice");
  clearTimeout(noticeTimer);
  setText(byId("notice-text"), text);
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
 * shown; `action` names the button; `run()` does it and returns what to tell afterwards. While it
 * fails the dialog stays open, with the reason. Cancel, Escape and a click beside it do nothing.
 */
export function ask({ title, sentences, fields = [], action, danger = false, run }) {
  const dialog = byId("ask");
  const [form, error, submit] = [byId("ask-form"), byId("ask-error"), byId("ask-submit")];
  setText(byId("ask-title"), title);
  byId("ask-text").replaceChildren(...sentences.filter(Boolean).map((text) => make("p", { text })));
  byId("ask-fields").replaceChildren(...fields);
  setText(submit, action);
  submit.classList.toggle("danger", danger);
  setText(error, "");
  submit.disabled = false;

  form.onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    setText(error, "");
    try {
      const told = await run();
      dialog.close();
      if (told) notice(told);
    } catch (failure) {
      setText(error, failure.message);
    }
    submit.disabled = false;
  };
  byId("ask-cancel").onclick = () => dialog.close();
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close();
  };
  dialog.showModal();
  byId("ask-cancel").focus(); // Enter must not do what nobody has read yet
}

/** Close the dialog, whatever it asks. */
export function closeDialog() {
  byId("ask").close();
}

/** A field and its label; `after` stands behind it. */
export function labelled(text, input, after = "") {
  return make("label", { class: "field" }, make("span", { text }), input, after);
}
