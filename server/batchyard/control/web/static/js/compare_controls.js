// How compared curves are drawn: along what, on which scale, how smooth.

import { el, setText } from "./dom.js";

export class CompareControls {
  /** `onChange` is called when another way was chosen; `chosen` is {axis, log, weight}. */
  constructor(onChange) {
    this.onChange = onChange;
    this.chosen = { axis: "step", log: false, weight: 0 };
    this.output = el("output", { class: "number", text: "0.00" });
    this.slider = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0, "aria-label": "Smoothing of the loss", oninput: () => this.smoothen() });
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
      this.onChange();
    };
    return el("div", { role: "group", "aria-label": title }, el("span", { text: title }), el("span", { class: "switch" }, buttons));
  }

  smoothen() {
    this.chosen = { ...this.chosen, weight: Number(this.slider.value) };
    setText(this.output, this.chosen.weight.toFixed(2));
    this.onChange();
  }
}
