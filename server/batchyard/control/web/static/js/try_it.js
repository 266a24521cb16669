// Draw a digit or choose a picture, and see what a version says of it.

import { ApiError, post } from "./api.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { centred, fitted, inverted, lightness, show } from "./picture.js";

const SIDE = 252; // pixels of the drawing
const PEN = 20;
const SHOWN = 10;

export class TryIt {
  constructor(version, path, signal) {
    Object.assign(this, { path, signal, shape: version.inputs[0].shape.slice(1).map(Number), asked: 0 });
    this.node = el("section", { class: "panel", "aria-labelledby": "try-title" }, el("h2", { id: "try-title", text: "Try it" }));
    if (this.shape.length !== 3 || ![1, 3].includes(this.shape[0])) {
      this.node.append(el("p", { class: "soft", text: `Its input ${JSON.stringify(this.shape)} is not a picture: ask it over the Open Inference Protocol.` }));
      return;
    }
    this.canvas = el("canvas", { class: "pad", width: SIDE, height: SIDE, role: "img", "aria-label": "Place to draw on with a pointer" });
    this.seen = el("canvas", { class: "seen", role: "img", "aria-label": "What the network is given", hidden: true });
    this.file = el("input", { type: "file", accept: "image/*", onchange: () => this.choose(this.file.files[0]) });
    this.invert = el("input", { type: "checkbox", onchange: () => this.ask() });
    this.verdict = el("p", { class: "verdict", role: "status", text: "Draw, or choose a picture." });
    this.classes = el("div");
    this.node.append(el("p", { class: "about", text: "The picture goes through this service to the inference plane, like any other request." }),
      el("div", { class: "try" },
        el("div", {}, this.canvas, el("div", { class: "controls" }, el("button", { type: "button", text: "Clear", onclick: () => this.clear() }))),
        el("div", {}, el("label", { class: "file" }, "Or choose a picture", this.file), el("label", { class: "check" }, this.invert, " Exchange light and dark"), this.seen),
        el("div", { class: "answer" }, this.verdict, this.classes)));
    this.listen();
    this.clear();
  }

  listen() {
    const place = ({ offsetX, offsetY }) => [(offsetX * SIDE) / this.canvas.clientWidth, (offsetY * SIDE) / this.canvas.clientHeight];
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      if (this.source !== "drawing") this.clear();
      this.last = place(event);
      this.stroke(this.last);
    });
    this.canvas.addEventListener("pointermove", (event) => this.last && this.stroke(place(event)));
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, () => {
        if (!this.last) return;
        this.last = null;
        this.bytes = centred(this.canvas, this.shape);
        this.ask();
      });
    }
  }

  clear() {
    const ink = (this.ink ??= this.canvas.getContext("2d", { willReadFrequently: true }));
    ink.fillStyle = "black";
    ink.fillRect(0, 0, SIDE, SIDE);
    Object.assign(ink, { strokeStyle: "white", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    Object.assign(this, { source: "drawing", bytes: null, last: null });
    this.invert.checked = false;
    this.file.value = "";
    this.seen.hidden = true;
    this.asked += 1;
    setText(this.verdict, "Draw, or choose a picture.");
    fill(this.classes);
  }

  stroke(to) {
    this.ink.beginPath();
    this.ink.moveTo(...this.last);
    this.ink.lineTo(...to);
    this.ink.stroke();
    this.last = to;
  }

  async choose(file) {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file);
      this.ink.drawImage(picture, 0, 0, SIDE, SIDE);
      this.source = "file";
      this.bytes = fitted(picture, this.shape);
      this.invert.checked = this.shape[0] === 1 && lightness(this.bytes) > 127; // digits are light on dark
    } catch {
      this.say(`${file.name} is not a picture that this browser can read.`);
      return;
    }
    await this.ask();
  }

  async ask() {
    if (!this.bytes) return;
    const bytes = this.invert.checked ? inverted(this.bytes) : this.bytes;
    this.seen.hidden = false;
    show(this.seen, bytes, this.shape);
    const asked = (this.asked += 1);
    try {
      const answer = await post(`${this.path}/predict`, this.signal, bytes);
      if (asked === this.asked) this.tell(answer);
    } catch (error) {
      if (asked === this.asked && !this.signal.aborted) this.say(error instanceof ApiError ? `${error.message}.` : "The service cannot be reached.");
    }
  }

  say(text) {
    setText(this.verdict, text);
    fill(this.classes);
  }

  tell({ classes, seconds }) {
    const [best] = classes;
    setText(this.verdict, `${best.label}: ${format.percent(best.probability, 1)}, after ${format.shortTime(seconds)}`);
    fill(this.classes, el("table", { class: "bars", "aria-label": "Classes, the most probable first" },
      el("thead", { class: "unseen" }, el("tr", {}, ["Class", "Bar", "Probability"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, classes.slice(0, SHOWN).map(({ label, probability }) => el("tr", {}, el("th", { scope: "row", text: label }), el("td", {}, bar(probability)),
        el("td", { class: "right", text: format.percent(probability, 1) }))))));
  }
}

function bar(share) {
  const node = el("span", { class: "bar-of" });
  node.style.setProperty("--share", share);
  return node;
}
