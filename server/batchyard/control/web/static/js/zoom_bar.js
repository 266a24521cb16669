// Which part the charts of a page show, to be written as well as dragged, and the way back to everything.

import { el, setText } from "./dom.js";

export class ZoomBar {
  /** `unit` is what is counted along the charts: steps, seconds. */
  constructor(zoom, signal, unit = "steps") {
    this.zoom = zoom;
    [this.from, this.to] = [["Show from", "first"], ["Show to", "last"]].map(([title, placeholder]) => el("input", {
      type: "number", min: 0, step: "any", inputmode: "decimal", placeholder, "aria-label": title, onchange: () => this.take() }));
    this.words = el("span");
    this.count(unit);
    this.reset = el("button", { type: "button", text: "Show all", onclick: () => { zoom.reset(); this.from.focus(); } });
    this.node = el("div", { class: "zoom", role: "group", "aria-label": "Part shown" }, this.words, this.from, "to", this.to, this.reset,
      el("span", { class: "hint", text: "or drag over a chart" }));
    zoom.listen(() => this.show(), signal);
    this.show();
  }

  /** Names what is counted. */
  count(unit) {
    setText(this.words, `${unit.charAt(0).toUpperCase()}${unit.slice(1)}`);
  }

  take() {
    const [from, to] = [this.from, this.to].map(({ value }) => (value === "" ? null : Number(value)));
    this.zoom.set(from, to);
  }

  show() {
    this.from.value = this.zoom.from ?? "";
    this.to.value = this.zoom.to ?? "";
    this.node.classList.toggle("closer", !this.zoom.all);
    this.reset.hidden = this.zoom.all;
  }
}
