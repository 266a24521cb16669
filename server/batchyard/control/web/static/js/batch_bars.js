// How large the batches were: a bar for each size.

import { el, fill } from "./dom.js";
import * as format from "./format.js";

export class BatchBars {
  constructor() {
    this.body = el("div");
    this.node = el("section", { class: "panel", "aria-label": "Batch sizes" }, el("h2", { text: "Batch sizes" }),
      el("p", { class: "about", text: "Rows that the engine was given at once, over the time shown." }), this.body);
  }

  /** Takes [words, count] of each size. */
  draw(batches) {
    const most = Math.max(...batches.map(([, count]) => count));
    const all = batches.reduce((sum, [, count]) => sum + count, 0);
    if (!(all > 0)) {
      fill(this.body, el("div", { class: "chart" }, el("div", { class: "waiting", text: "No batch in this time" })));
      return;
    }
    fill(this.body, el("table", { class: "bars", "aria-label": "Batches by size" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "right", text: "Rows" }), el("th", { scope: "col" }, el("span", { class: "unseen", text: "Share" })), el("th", { scope: "col", class: "right", text: "Batches" }))),
      el("tbody", {}, batches.map(([words, count]) => el("tr", {},
        el("th", { scope: "row", text: words }), el("td", {}, count > 0 && bar(count / most)),
        el("td", { class: "right", text: `${format.integer(Math.round(count))} · ${share(count / all)}` }))))));
  }
}

// A few of very many are not none.
const share = (value) => (value > 0 && value < 0.005 ? "<1\u00a0%" : format.percent(value, 0));

function bar(share) {
  const node = el("span", { class: "bar-of" });
  node.style.setProperty("--share", share);
  return node;
}
