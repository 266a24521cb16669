// Where a version came from, as a chain: from what is served back to the data.

import { el } from "./dom.js";
import * as format from "./format.js";
import { facts, statePill } from "./parts.js";

/** The chain of a version with these `aliases`; `came` holds its job and checkpoint, where they are known. */
export function lineage(version, aliases, latest, { job, checkpoint }) {
  const nodes = [deployment(version, aliases, latest), published(version), proof(version.certificate)];
  if (version.training_job) nodes.push(job && kept(checkpoint), trained(version, job), ordered(version, job), data(version));
  else nodes.push(made(version));
  return el("ol", { class: "lineage", "aria-label": "From what is served back to the data" }, nodes.filter(Boolean));
}

const node = (title, head, pairs) => el("li", {}, el("span", { class: "kind", text: title }), el("strong", {}, head), facts(pairs));
const lines = (texts) => texts.map((text) => el("span", { class: "line", text }));
const digest = (text) => text && el("code", { title: text, text: `${text.slice(0, 12)}…` });

function deployment(version, aliases, latest) {
  const [, model] = version.name.split("/");
  const number = format.id(version.name);
  const asked = [aliases.includes("production") && model, ...aliases.map((alias) => `${model}@${alias}`), `${model}/${number}`].filter(Boolean);
  if (aliases.length === 0 && !latest) return node("Deployment", "not served", [["Why", "no alias names it, and it is not the newest version"]]);
  return node("Deployment", aliases.length > 0 ? aliases.join(", ") : "the newest version", [["Asked as", lines(asked)]]);
}

function published(version) {
  const [, model, , number] = version.name.split("/");
  return node("Version", `${model} / ${number}`, [["Published", format.date(version.create_time)], ["Origin", version.origin], ["Manifest", digest(version.manifest_sha256)],
    ["Weights", digest(version.weights_sha256)]]);
}

function proof(certificate) {
  if (!certificate) return node("Certificate", "none", []);
  return node("Certificate", statePill(certificate.passed ? "passed" : "not passed", certificate.passed ? "Passed" : "Not passed"),
    [["Largest error", format.scientific(certificate.max_error)], ["Allowed", format.scientific(certificate.bound)], ["Digest", digest(certificate.digest)]]);
}

function kept(checkpoint) {
  if (!checkpoint) return node("Checkpoint", "none is kept", []);
  return node("Checkpoint", `step ${format.integer(checkpoint.step)}`, [["Size", format.bytes(checkpoint.bytes)], ["Manifest", digest(checkpoint.sha256)], ["Tensors", digest(checkpoint.tensors_sha256)]]);
}

function trained(version, job) {
  const id = format.id(version.training_job);
  if (!job) return node("Job", id, [["Record", "the service has it no more"]]);
  return node("Job", el("a", { href: `#/jobs/${encodeURIComponent(id)}`, text: id }), [["Attempts", format.integer(job.attempt)], ["Steps", format.integer(job.progress?.step)],
    ["Took", job.end_time && format.duration(format.between(job.start_time, job.end_time))]]);
}

function ordered(version, job) {
  const optimizer = job?.spec.optimizer;
  return node("Spec and code", version.architecture, [["Seed", String(version.seed)], ["Optimiser", optimizer && `${optimizer.name}, rate ${optimizer.learning_rate}`],
    ["Workers", job && `${job.spec.workers.count}`], ["Libraries", lines(Object.entries(version.libraries).sort().map((each) => each.join(" ")))]]);
}

function data(version) {
  return node("Data", version.dataset, [["Digest", digest(version.dataset_sha256)], ["Held out", version.evaluated_samples > 0 && `${format.integer(version.evaluated_samples)} samples`]]);
}

// A version that no job of this service has trained.
function made(version) {
  const links = version.sources.map((name) => {
    const [, model, , number] = name.split("/");
    return el("a", { class: "source", href: `#/models/${encodeURIComponent(model)}/versions/${number}`, text: `${model} / ${number}` });
  });
  const { recalibration } = version;
  return node("Made from", links.length > 0 ? links : "files from elsewhere", [["Inputs", recalibration && `${format.integer(recalibration.samples)}, unlabelled`],
    ["Prior", recalibration && `${recalibration.prior} samples`], ["Digest", digest(recalibration?.inputs_sha256)]]);
}
