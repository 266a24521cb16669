// The jobs that wait, in the order in which they may start, each with its reason.

import { follow } from "./api.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { sentence, summary } from "./parts.js";

/** What becomes of a waiting job, in a word. */
const VERDICTS = {
  STARTS: "Starting", CLEARING_UP: "Clearing up", BACKING_OFF: "Backing off", CLUSTER_SILENT: "Cluster silent", TOO_LARGE: "Too large",
  NO_ROOM: "Next", BEHIND: "Behind others", OVER_QUOTA: "Over quota",
};
const HEADS = [["#", "right"], ["Job"], ["Why it waits"], ["Priority", "right"], ["Needs", "right"], ["Waiting", "right"]];

export async function queuePage(main, _, { signal, onLink }) {
  document.title = "Queue · Batchyard";
  const view = new QueueView(signal);
  fill(main, el("div", { class: "heading" }, el("h1", { text: "Queue" })), el("p", { class: "lead" }, "Of higher priority first, then older ones. Nobody overtakes the job that is next."), view.node);
  await follow(() => "/api/queue?watch=true", { signal, onLink, onMessage: (queue) => view.set(queue) });
}

class QueueView {
  constructor(signal) {
    this.place = el("div", { class: "panel table-panel" }, el("p", { class: "empty", text: "Asking the service …" }));
    this.cluster = el("section", { class: "panel", "aria-label": "Cluster" });
    this.node = el("div", {}, this.cluster, this.place);
    this.rows = [];
    const tick = setInterval(() => this.tick(), 1000);
    signal.addEventListener("abort", () => clearInterval(tick));
  }

  set(queue) {
    fill(this.cluster, use(queue));
    this.rows = queue.waiting.map(row);
    const more = queue.length - queue.waiting.length;
    if (this.rows.length === 0) fill(this.place, el("p", { class: "empty" }, el("strong", { text: "Nobody waits" }), "A job that is submitted starts as soon as there is room for it."));
    else {
      fill(this.place, el("table", { class: "cards queue", "aria-label": "Waiting jobs" },
        el("thead", {}, el("tr", {}, HEADS.map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), el("tbody", {}, this.rows.map(({ node }) => node))),
      more > 0 && el("p", { class: "empty", text: `and ${format.integer(more)} more behind them` }));
    }
    this.tick();
  }

  tick() {
    for (const { since, job } of this.rows) setText(since, format.age(job.create_time));
  }
}

function row({ job, explanation }) {
  const { queueing, summary: why, next_step: advice } = explanation;
  const id = format.id(job.name);
  const since = el("span");
  const stuck = queueing.verdict === "TOO_LARGE" || queueing.verdict === "CLUSTER_SILENT";
  const node = el("tr", {},
    el("td", { class: "right number place", "data-label": "Place", text: queueing.position }),
    el("td", { class: "name", "data-label": "Job" }, el("a", { href: `#/jobs/${encodeURIComponent(id)}`, text: id }), el("div", { class: "soft small", text: summary(job) })),
    el("td", { class: "wide why", "data-label": "Why it waits" }, el("span", { class: "state", "data-state": stuck ? "FAILED" : queueing.verdict === "STARTS" ? "STARTING" : "QUEUED", text: VERDICTS[queueing.verdict] ?? queueing.verdict }),
      el("div", { class: "small" }, sentence(why), stuck && el("span", { class: "soft", text: ` What to do: ${advice}.` }))),
    el("td", { class: "right", "data-label": "Priority", text: queueing.priority }),
    el("td", { class: "right", "data-label": "Needs", text: needs(queueing.needs) }),
    el("td", { class: "right", "data-label": "Waiting" }, since));
  return { node, since, job };
}

const needs = ({ workers, gpus }) => `${workers} ${workers === 1 ? "worker" : "workers"}${gpus > 0 ? `, ${gpus} ${gpus === 1 ? "GPU" : "GPUs"}` : ""}`;

// What the cluster has and who uses it.
function use({ cluster, used, running, waiting }) {
  const parts = [el("div", { class: "use" }, meter("Workers", used.workers, cluster?.workers), (cluster?.gpus > 0 || used.gpus > 0) && meter("GPUs", used.gpus, cluster?.gpus))];
  if (!cluster && waiting.length > 0) parts.push(el("p", { class: "notice", text: "The cluster does not answer, so nothing can start." }));
  const links = running.flatMap((name, i) => [i > 0 ? ", " : "", el("a", { href: `#/jobs/${encodeURIComponent(format.id(name))}`, text: format.id(name) })]);
  parts.push(el("p", { class: "small soft" }, running.length > 0 ? ["In use by ", ...links] : "Nothing runs."));
  return parts;
}

function meter(name, used, all) {
  const known = all !== undefined;
  const fillBar = el("span");
  fillBar.style.transform = `scaleX(${known && all > 0 ? Math.min(1, used / all) : 0})`;
  return el("div", { class: "bar-block" },
    known && el("div", { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": all, "aria-valuenow": Math.min(used, all), "aria-label": `${name} in use` }, fillBar),
    el("div", { class: "bar-words" }, el("span", { text: known ? `${used} of ${all} ${name.toLowerCase()} in use` : `${used} ${name.toLowerCase()} in use` })));
}
