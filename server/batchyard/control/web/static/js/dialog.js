// A question before something is done: what will happen, and a button for it. What goes wrong is told where it was asked.

import { ApiError } from "./api.js";
import { el, setText } from "./dom.js";

/**
 * Asks in a dialog that is put into `host`. `title`, `name` (what it is about, if it is one thing) and `text` are shown, then `fields`; `verb`
 * is on the button, which is red where `danger`. `ask()` does it; once that is done, the dialog closes. `busy` is said
 * meanwhile, where it may take long.
 */
export function question({ host, title, name, text, fields = [], verb, danger = false, busy, ask, signal }) {
  const wrong = el("p", { class: "wrong", role: "alert" });
  const waiting = el("p", { class: "soft", role: "status" });
  const act = async () => {
    go.disabled = true;
    setText(wrong, "");
    setText(waiting, busy ?? "");
    try {
      const done = await ask();
      dialog.close();
      done?.();
    } catch (error) {
      if (signal.aborted) return;
      setText(waiting, "");
      setText(wrong, error instanceof ApiError ? error.message : "The service cannot be reached. Try again when it is.");
      go.disabled = false;
    }
  };
  const go = el("button", { type: "button", class: danger ? "danger" : "primary", text: verb, onclick: act });
  const dialog = el("dialog", { "aria-labelledby": "action-title", "aria-describedby": "action-text", onclose: () => dialog.remove() },
    el("h2", { id: "action-title", text: title }), name && el("p", { class: "mono", text: name }), el("p", { id: "action-text", text }), fields, wrong, waiting,
    el("div", { class: "choices" }, el("button", { type: "button", autofocus: true, text: "Leave it", onclick: () => dialog.close() }), go));
  host.append(dialog);
  dialog.showModal();
}
