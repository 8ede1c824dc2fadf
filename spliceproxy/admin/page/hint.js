// What stands in data-hint is shown while the pointer or the focus is on it.

import { byId, setShown, setText } from "./dom.js";

const MARGIN = 8;

export function showHints() {
  const bubble = byId("hint");
  let owner = null;

  const hide = () => {
    owner = null;
    setShown(bubble, false);
  };
  const show = (event) => {
    const found = event.target.closest?.("[data-hint]");
    if (found === owner) return;
    if (!found) return hide();
    owner = found;
    setText(bubble, found.dataset.hint);
    setShown(bubble, true);
    place(bubble, found.getBoundingClientRect());
  };
  document.addEventListener("pointerover", show, { passive: true });
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  // A hint that changes under the pointer is shown as it is now.
  return () => {
    if (!owner) return;
    if (owner.isConnected && owner.dataset.hint) setText(bubble, owner.dataset.hint);
    else hide();
  };
}

function place(bubble, at) {
  const { width, height } = bubble.getBoundingClientRect();
  const left = Math.min(at.left, document.documentElement.clientWidth - width - MARGIN);
  const below = at.bottom + 4;
  const top = below + height < innerHeight ? below : at.top - height - 4;
  bubble.style.translate = `${Math.max(MARGIN, left)}px ${Math.max(MARGIN, top)}px`;
}
