// One job in the list.

import { tagLink } from "./annotations.js";
import { el, fill, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { TERMINAL, progressBar, setState, statePill, summary } from "./parts.js";
import { setting, written } from "./settings.js";
import { sparkline } from "./sparkline.js";

const MOST_TAGS = 4; // in a row; the job's page has all

export class JobRow {
  /** `onPick(job, picked)` is told when the reader chooses the job, or no longer does. */
  constructor(onPick) {
    this.box = el("input", { type: "checkbox", onchange: () => onPick(this.job, this.box.checked) });
    this.link = el("a");
    this.about = el("div");
    this.tags = el("div", { class: "tags", hidden: true });
    this.cause = el("div", { class: "cause", hidden: true });
    this.pill = statePill("QUEUED");
    this.setting = el("td", { class: "setting-cell", hidden: true });
    this.bar = progressBar();
    this.cells = Object.fromEntries(["loss", "accuracy", "evaluation", "rate", "age"].map((name) => [name, el("span")]));
    const c = this.cells;
    this.spark = sparkline();
    this.node = el("tr", {},
      el("td", { class: "pick" }, el("label", {}, this.box)),
      el("td", { class: "name" }, this.link, this.about, this.tags, this.cause),
      el("td", { class: "state-cell" }, this.pill),
      this.setting,
      el("td", { class: "progress" }, this.bar.node),
      el("td", { class: "right", "data-label": "Loss" }, c.loss, el("div", {}, this.spark.node)),
      el("td", { class: "right", "data-label": "Accuracy" }, c.accuracy, el("div", { class: "under" }, c.evaluation)),
      el("td", { class: "right", "data-label": "Samples/s" }, c.rate),
      el("td", { class: "right", "data-label": "Age" }, c.age));
  }

  set(job) {
    this.job = job;
    const id = (this.id = format.id(job.name));
    setAttribute(this.box, "aria-label", `Choose ${id}`);
    this.link.setAttribute("href", `#/jobs/${encodeURIComponent(id)}`);
    setText(this.link, id);
    setText(this.about, summary(job));
    this.setTags(job.tags);
    this.cause.hidden = !job.failure;
    setText(this.cause, job.failure?.cause ?? "");
    setAttribute(this.cause, "title", job.failure?.cause ?? "");
    setState(this.pill, job.state);
    this.bar.set(job);
    this.spark.node.classList.toggle("none", job.progress === undefined); // others have its place from the beginning
    const progress = job.progress ?? {};
    setText(this.cells.loss, format.loss(progress.loss));
    setText(this.cells.accuracy, format.percent(progress.accuracy));
    setText(this.cells.evaluation, progress.evaluation_accuracy === undefined ? "" : `held out ${format.percent(progress.evaluation_accuracy, 1)}`);
    setText(this.cells.rate, TERMINAL.has(job.state) ? "–" : format.rate(progress.samples_per_second));
    this.tick();
  }

  /** Shows a setting of its spec; none for "". */
  showSetting(name) {
    if (name === this.shownSetting) return; // a spec never changes
    this.shownSetting = name;
    this.setting.hidden = name === "";
    setAttribute(this.setting, "data-label", name);
    setText(this.setting, name && written(setting(this.job.spec, name)));
  }

  setTags(tags) {
    const shown = tags.join(" ");
    if (shown === (this.shownTags ?? "")) return;
    this.shownTags = shown;
    this.tags.hidden = tags.length === 0;
    fill(this.tags, tags.slice(0, MOST_TAGS).map(tagLink), tags.length > MOST_TAGS && `+${tags.length - MOST_TAGS}`);
  }

  /** Whether the loss has gone on since it was drawn. */
  get staleLoss() {
    return this.job.progress !== undefined && this.job.progress.step !== this.drawnAt;
  }

  get hasLoss() {
    return this.drawnAt !== undefined;
  }

  drawLoss(values) {
    this.drawnAt = this.job.progress?.step;
    this.spark.set(values);
  }

  mark(chosen) {
    this.box.checked = chosen.has(this.job.name);
  }

  tick() {
    setText(this.cells.age, format.age(this.job.create_time));
    if (this.job.state === "QUEUED") this.bar.set(this.job);
  }
}
