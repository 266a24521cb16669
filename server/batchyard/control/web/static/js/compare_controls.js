// How compared curves are drawn: along what, on which scale, how smooth.

import { keep, kept, keptNumber } from "./address.js";
import { el, setText } from "./dom.js";

const MOST_SMOOTH = 0.99;

export class CompareControls {
  /** `onChange` is called when another way was chosen; `chosen` is {axis, log, weight}, and kept in the address. */
  constructor(onChange) {
    this.onChange = onChange;
    const weight = Math.min(Math.max(keptNumber("smooth") ?? 0, 0), MOST_SMOOTH);
    this.chosen = { axis: kept().get("axis") === "time" ? "time" : "step", log: kept().get("log") === "true", weight };
    this.output = el("output", { class: "number", text: weight.toFixed(2) });
    this.slider = el("input", { type: "range", min: 0, max: MOST_SMOOTH, step: 0.01, value: weight, "aria-label": "Smoothing of the loss", oninput: () => this.smoothen() });
    this.node = el("div", { class: "controls", role: "group", "aria-label": "How to draw" },
      this.choice("Along", "axis", [["Steps", "step"], ["Time", "time"]]),
      this.choice("Loss", "log", [["Linear", false], ["Log", true]]),
      el("label", {}, el("span", { text: "Smooth the loss" }), this.slider, this.output));
  }

  choice(title, key, options) {
    const buttons = options.map(([text, value]) => el("button", { type: "button", text, "aria-pressed": String(this.chosen[key] === value), onclick: () => choose(value) }));
    const choose = (value) => {
      this.chosen = { ...this.chosen, [key]: value };
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(options[i][1] === value)));
      this.change();
    };
    return el("div", { role: "group", "aria-label": title }, el("span", { text: title }), el("span", { class: "switch" }, buttons));
  }

  smoothen() {
    this.chosen = { ...this.chosen, weight: Number(this.slider.value) };
    setText(this.output, this.chosen.weight.toFixed(2));
    this.change();
  }

  change() {
    const { axis, log, weight } = this.chosen;
    keep({ axis: axis === "step" ? null : axis, log: log || null, smooth: weight || null });
    this.onChange();
  }
}
