// The parts of a long page, to be jumped to.

import { el } from "./dom.js";

/** `parts` are [title, node]; a part that is hidden is not offered: `show()` looks anew. */
export class Jump {
  constructor(parts) {
    this.parts = parts.map(([title, node]) => ({ node, button: el("button", { type: "button", text: title, onclick: () => go(node) }) }));
    this.node = el("nav", { class: "jump", "aria-label": "On this page" }, this.parts.map(({ button }) => button));
  }

  show() {
    for (const { node, button } of this.parts) button.hidden = node.closest("[hidden]") !== null; // without a look at the layout
  }
}

// Whoever jumps by keyboard goes on from there.
function go(node) {
  node.setAttribute("tabindex", -1);
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "start" });
}
