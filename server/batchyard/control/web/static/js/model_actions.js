// What a user may ask of a version: deploy it, roll back from it, recalibrate it. Asked once confirmed.

import { post } from "./api.js";
import { question } from "./dialog.js";
import { el, fill } from "./dom.js";
import * as format from "./format.js";

const DEFAULT_ALIAS = "production"; // who answers where a request names no version
const PRIOR = 16;
const LOW_PRIORITY = "It is made in a process of its own, and no alias moves to it.";

export class ModelActions {
  /** `onModel(model)` is given the model as it is after an action. */
  constructor({ modelPath, path, number, onModel, signal }) {
    Object.assign(this, { modelPath, path, number, onModel, signal });
    this.deploy = this.button("Deploy", () => this.askAlias(this.number, `Deploy version ${this.number}?`));
    this.back = this.button("Roll back", () => this.askEarlier());
    this.recalibrate = this.button("Recalibrate", () => this.askRecalibration());
    this.node = el("div", { class: "actions", role: "group", "aria-label": "Actions" }, this.deploy, this.back, this.recalibrate);
    this.told = el("p", { class: "told", "aria-live": "polite", tabindex: -1 });
  }

  button(text, onclick) {
    return el("button", { type: "button", text, hidden: true, onclick });
  }

  /** What does not change: the version, and the numbers of all. */
  know(version, numbers) {
    this.version = version;
    this.earlier = numbers.filter((one) => one < Number(this.number));
  }

  /** Offers what the model allows now. */
  set(model) {
    this.model = model;
    const current = model.aliases[DEFAULT_ALIAS] === this.number;
    this.deploy.hidden = current;
    this.back.hidden = !current || this.earlier.length === 0;
    this.recalibrate.hidden = this.version.origin === "ensemble";
  }

  askAlias(target, title, fields = [], chosen = () => target) {
    const now = this.model.aliases[DEFAULT_ALIAS];
    const text = `Requests for ${format.id(this.model.name)} that name no version are then answered by it${now ? `, no longer by version ${now}` : ""}. The inference planes load it, check its certificate, and change over between two batches.`;
    question({
      host: this.node, title, name: `${format.id(this.model.name)}@${DEFAULT_ALIAS}`, text, fields, verb: fields.length > 0 ? "Roll back" : "Deploy", signal: this.signal,
      ask: async () => {
        const number = chosen();
        const model = await post(`${this.modelPath}/aliases/${DEFAULT_ALIAS}?version=${number}`, this.signal);
        return () => {
          this.onModel(model);
          this.tell(`${DEFAULT_ALIAS} is version ${number} now.`);
        };
      },
    });
  }

  askEarlier() {
    const choice = el("select", { id: "earlier" }, this.earlier.map((number) => el("option", { value: number, text: `version ${number}` })));
    this.askAlias(null, `Roll back from version ${this.number}?`, [el("label", { for: "earlier", text: "Back to" }), choice], () => choice.value);
  }

  askRecalibration() {
    const prior = el("input", { id: "prior", type: "number", min: 0, step: 1, value: PRIOR });
    question({
      host: this.node, title: "Recalibrate this version?", name: `${format.id(this.model.name)} / ${this.number}`, verb: "Recalibrate", signal: this.signal,
      text: `A new version gets population statistics of the inputs that this one was asked about lately, as the inference plane has sampled them, and is certified like any other. ${LOW_PRIORITY}`,
      fields: [el("label", { for: "prior", text: "Samples that the old statistics count as" }), prior], busy: "Recalibrating: this takes some seconds …",
      ask: async () => {
        const made = await post(`${this.path}/recalibrate?prior=${encodeURIComponent(prior.value)}`, this.signal);
        return () => {
          const [, model, , number] = made.name.split("/");
          this.tell("Made ", el("a", { href: `#/models/${encodeURIComponent(model)}/versions/${number}`, text: `${model} / ${number}` }), ": look at it, then deploy it.");
        };
      },
    });
  }

  tell(...words) {
    fill(this.told, words);
    this.told.focus();
  }
}
