// The checkpoints that a job has written, the newest first, with what the network was worth then.

import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 10;

export class CheckpointsPanel {
  /** `heldOut` is the Series of evaluations. */
  constructor(heldOut) {
    this.heldOut = heldOut;
    this.all = [];
    this.body = el("tbody");
    this.words = el("p", { class: "about" });
    this.node = el("section", { class: "panel", "aria-labelledby": "checkpoints-title", hidden: true },
      el("h2", { id: "checkpoints-title", text: "Checkpoints" }), this.words,
      el("table", { class: "cards dated", "aria-label": "Checkpoints" },
        el("thead", {}, el("tr", {}, ["Step", "Written", "Size", "Held-out accuracy", ""].map((text) => el("th", { scope: "col" }, text || el("span", { class: "unseen", text: "Notes" }))))), this.body));
  }

  /** Takes a Checkpointed message, and when it came. */
  add(time, { step, bytes }) {
    this.all.push({ step: Number(step), time, bytes });
    this.changed = true;
  }

  /** Training goes on from `step`. */
  rewind(step) {
    this.all = this.all.filter((one) => one.step <= step);
    this.changed = true;
  }

  draw() {
    if (!this.changed) return;
    this.changed = false;
    this.node.hidden = this.all.length === 0;
    const scored = this.all.map((one) => ({ ...one, accuracy: this.heldOut.at(one.step, "accuracy") })).reverse();
    const best = Math.max(...scored.map(({ accuracy }) => accuracy ?? -1));
    const shown = scored.slice(0, SHOWN);
    const count = `${scored.length} written${scored.length > shown.length ? `, the newest ${SHOWN} shown` : ""}`;
    setText(this.words, `${count}. The service keeps as many of them as checkpoint.keep says, and the last of a job that has succeeded.`);
    fill(this.body, shown.map((one, i) => row(one, [i === 0 && "newest", one.accuracy !== null && one.accuracy === best && "best"].filter(Boolean))));
  }
}

function row({ step, time, bytes, accuracy }, notes) {
  return el("tr", {},
    el("td", { "data-label": "Step", class: "number", text: format.integer(step) }),
    el("td", { "data-label": "Written", text: format.date(time) }),
    el("td", { "data-label": "Size", text: format.bytes(bytes) }),
    el("td", { "data-label": "Held-out accuracy", text: format.percent(accuracy) }),
    el("td", { class: notes.length > 0 ? "wide" : "none" }, notes.map((text) => el("span", { class: "chip", text }))));
}
