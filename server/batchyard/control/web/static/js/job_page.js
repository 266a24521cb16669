// One job, live: where it stands, its curves, its layers, its log, and what came of it.

import { Actions } from "./actions.js";
import { Activations } from "./activations.js";
import { Annotations } from "./annotations.js";
import { follow, get } from "./api.js";
import { CheckpointsPanel } from "./checkpoints_panel.js";
import { Curves } from "./curves.js";
import { Detail } from "./detail.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { Jump } from "./jump.js";
import { Log } from "./log.js";
import { TERMINAL, progressBar, setState, statePill, summary } from "./parts.js";
import { Restarts } from "./restarts.js";
import { Speed } from "./speed.js";
import { StepParts } from "./step_parts.js";
import { versionDetails } from "./version.js";
import { WaitingPanel } from "./waiting_panel.js";
import { Zoom } from "./zoom.js";
import { ZoomBar } from "./zoom_bar.js";

const REFRESH_MS = 1000;
const MOST_POINTS = 600; // of history, about one for each pixel of a chart; the service thins what is longer

export async function jobPage(main, id, { signal, onLink }) {
  document.title = `${id} · Batchyard`;
  const view = new JobView(main, id, signal);
  await Promise.all([view.refresh(), view.follow(onLink)]);
}

class JobView {
  constructor(main, id, signal) {
    this.path = `/api/jobs/${encodeURIComponent(id)}`;
    this.signal = signal;
    this.pill = statePill("QUEUED", "…");
    this.asked = this.seen = 0; // questions for the job, and the latest whose answer is shown
    this.actions = new Actions(this.path, { onChange: (job) => this.setFrom(++this.asked, job), signal });
    this.lead = el("p", { class: "lead" });
    this.annotations = new Annotations(this.path, { onChange: (job) => this.setFrom(++this.asked, job), signal });
    this.failure = el("div");
    this.waiting = new WaitingPanel(this.path, signal);
    this.bar = progressBar();
    this.figures = new Figures();
    this.restarts = new Restarts();
    const marks = () => this.restarts.marks();
    const zoom = new Zoom();
    this.curves = new Curves(signal, this.restarts, zoom);
    this.speed = new Speed(signal, this.restarts, zoom);
    this.parts = new StepParts(signal, this.restarts, zoom);
    this.activations = new Activations(signal, marks, zoom);
    this.checkpoints = new CheckpointsPanel(this.curves.heldOut);
    this.version = new VersionPanel(signal);
    this.detail = new Detail(this.path, zoom, { most: MOST_POINTS, onEvent: (event) => this.fillIn(event), onDone: () => this.draw(), signal });
    this.zoomBar = new ZoomBar(zoom, signal);
    this.reports = el("div", {}, this.curves.node, this.speed.node, this.parts.node, this.activations.node, this.checkpoints.node, this.version.node);
    this.spec = el("pre", { class: "text", tabindex: 0, "aria-labelledby": "spec-title" });
    this.log = new Log(this.path, id, signal);
    const spec = el("section", { class: "panel" }, el("h2", { id: "spec-title", text: "Spec" }), this.spec);
    this.jump = new Jump([["Charts", this.curves.node], ["Step time", this.parts.node], ["Activations", this.activations.node], ["Checkpoints", this.checkpoints.node],
      ["Version", this.version.node], ["Log", this.log.node], ["Spec", spec]]);
    fill(main,
      el("p", { class: "crumb" }, el("a", { href: "#/jobs", text: "Jobs" })),
      el("div", { class: "heading" }, el("h1", { text: id }), this.pill, this.actions.node), this.actions.told, this.lead, this.annotations.node, this.failure, this.waiting.node,
      el("section", { class: "panel", "aria-label": "Progress" }, this.bar.node, this.figures.node),
      el("div", { class: "along" }, this.jump.node, this.zoomBar.node), this.reports, el("div", { class: "pair" }, this.log.node, spec));
    const tick = setInterval(() => this.tick(), 1000);
    signal.addEventListener("abort", () => clearInterval(tick));
  }

  async refresh() {
    const asked = ++this.asked;
    this.setFrom(asked, await get(this.path, this.signal));
  }

  /** Answers may overtake each other: an older one than what is shown is not news. */
  setFrom(asked, job) {
    if (asked < this.seen) return;
    this.seen = asked;
    this.set(job);
  }

  set(job) {
    this.job = job;
    setState(this.pill, job.state);
    this.actions.set(job);
    this.annotations.set(job);
    this.bar.set(job);
    this.figures.set(job.progress ?? {});
    if (!this.spec.hasChildNodes()) fill(this.spec, yaml(job.spec));
    if (job.failure) fill(this.failure, failurePanel(job.failure));
    if (TERMINAL.has(job.state)) {
      this.activations.explain("This job reported none.");
      this.parts.explain("This job did not measure it.");
    }
    if (job.spec.metrics.activation_statistics === false) this.activations.explain("The spec turns them off (metrics.activation_statistics: false).");
    this.version.set(job);
    this.waiting.set(job);
    this.reports.hidden = this.zoomBar.node.hidden = job.state === "QUEUED" && job.attempt === 0; // nothing to draw yet
    this.jump.show();
    this.tick();
  }

  async follow(onLink) {
    const address = (cursor) => `${this.path}/events?${new URLSearchParams({ cursor, max_points: MOST_POINTS })}`;
    const onMessage = ({ event }, cursor) => this.take(event, cursor);
    await follow(address, { onMessage, onLink, isDone: () => this.over, signal: this.signal });
    await this.refresh();
  }

  take(event, cursor) {
    if (event.step_metrics) {
      for (const shown of [this.curves, this.speed, this.parts]) shown.add(event.step_metrics);
      this.figures.speed(event.step_metrics);
      this.detail.see(event.step_metrics.step, cursor);
    } else if (event.evaluation) this.curves.heldOut.add(event.evaluation.step, event.evaluation);
    else if (event.layer_statistics) this.activations.add(event.layer_statistics);
    else if (event.checkpointed) this.checkpoints.add(event.time, event.checkpointed);
    else if (event.resumed) this.resume(event.attempt, Number(event.resumed.step));
    else if (event.log_line) this.log.add(event.time, event.log_line);
    else if (event.state_change) this.over = TERMINAL.has(event.state_change.state);
    if (this.due) return;
    this.due = setTimeout(() => this.draw(), this.drawn ? REFRESH_MS / 4 : 0);
  }

  /** Takes what the history had left out. */
  fillIn({ step_metrics: metrics, evaluation, layer_statistics: statistics }) {
    if (metrics) for (const shown of [this.curves, this.speed, this.parts]) shown.add(metrics, "fill");
    else if (evaluation) this.curves.heldOut.fill(evaluation.step, evaluation);
    else if (statistics) this.activations.add(statistics, "fill");
  }

  resume(attempt, step) {
    this.restarts.add(attempt, step);
    for (const shown of [this.detail, this.curves, this.speed, this.parts, this.activations, this.checkpoints]) shown.rewind(step);
  }

  draw() {
    this.due = null;
    this.drawn = true;
    if (this.signal.aborted) return;
    this.curves.draw();
    this.speed.draw();
    this.parts.draw();
    this.activations.draw();
    this.checkpoints.draw();
    this.log.draw();
    this.detail.ask().catch(() => {});
    this.jump.show();
    if (!this.refreshing) {
      this.refreshing = setTimeout(() => { this.refreshing = null; if (!this.signal.aborted) this.refresh().catch(() => {}); }, REFRESH_MS);
    }
  }

  tick() {
    const { job } = this;
    if (!job) return;
    const parts = [summary(job), `seed ${job.spec.seed}`, `submitted ${format.date(job.create_time)}`];
    if (job.start_time) parts.push(`${job.end_time ? "took" : "running for"} ${format.duration(format.between(job.start_time, job.end_time))}`);
    if (job.first_step_time) parts.push(`first step after ${format.duration(format.between(job.create_time, job.first_step_time))}`);
    if (job.attempt > 1) parts.push(`attempt ${job.attempt}`);
    setText(this.lead, parts.join(" · "));
    if (job.state === "QUEUED") this.bar.set(job);
  }
}

class Figures {
  constructor() {
    const names = ["Loss", "Accuracy", "Held-out accuracy", "Samples/s", "Time per step", "Learning rate"];
    this.values = names.map(() => el("dd", { text: "–" }));
    this.node = el("dl", { class: "figures" }, names.map((name, i) => el("div", {}, el("dt", { text: name }), this.values[i])));
  }

  set(progress) {
    this.put(0, format.loss(progress.loss));
    this.put(1, format.percent(progress.accuracy));
    this.put(2, format.percent(progress.evaluation_accuracy));
    this.put(3, format.rate(progress.samples_per_second));
  }

  speed(metrics) {
    this.put(4, format.shortTime(metrics.step_seconds));
    this.put(5, format.short(metrics.learning_rate));
  }

  put(i, text) {
    setText(this.values[i], text);
  }
}

class VersionPanel {
  constructor(signal) {
    this.signal = signal;
    this.body = el("div");
    this.node = el("section", { class: "panel", "aria-labelledby": "version-title" }, el("h2", { id: "version-title", text: "Published version" }), this.body);
  }

  set(job) {
    if (job.model_version === this.shown && this.state === job.state) return;
    this.state = job.state;
    if (!job.model_version) {
      fill(this.body, el("p", { class: "soft", text: this.why(job) }));
      return;
    }
    this.shown = job.model_version;
    const [, model, , number] = job.model_version.split("/");
    get(`/api/models/${encodeURIComponent(model)}/versions/${number}`, this.signal)
      .then((version) => fill(this.body, versionDetails(version)))
      .catch((error) => this.signal.aborted || fill(this.body, el("p", { class: "notice", text: error.message })));
  }

  why({ spec, state }) {
    if (!spec.publish) return "This job does not publish: its spec has no publish section.";
    if (TERMINAL.has(state)) return `None: the job ended before it could publish to ${spec.publish.model}.`;
    return `None yet. When trained, the network is folded, certified and published to ${spec.publish.model}${spec.publish.alias ? ` as ${spec.publish.alias}` : ""}.`;
  }
}

function failurePanel(failure) {
  const who = { USER: "The job cannot go on as it is", INFRASTRUCTURE: "A process or a machine failed", PREEMPTED: "Its machines were taken away" };
  return el("section", { class: "panel failure", role: "alert" },
    el("h2", { text: who[failure.failure_class] ?? "It failed" }),
    el("p", { class: "cause", text: failure.cause }),
    failure.next_step ? el("p", { class: "next" }, el("span", { class: "soft", text: "What to do: " }), failure.next_step) : null);
}

// The spec as the YAML that would submit it again.
function yaml(value, indent = "") {
  return Object.entries(value).flatMap(([key, part]) => {
    const name = el("span", { class: "key-name", text: `${indent}${key}: ` });
    if (part !== null && typeof part === "object" && !Array.isArray(part)) return [name, "\n", ...yaml(part, `${indent}  `)];
    return [name, `${Array.isArray(part) ? `[${part.join(", ")}]` : part}\n`];
  });
}
