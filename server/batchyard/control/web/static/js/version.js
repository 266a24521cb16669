// A published version: what it is, the certificate, and what became of each normalisation layer.

import { el } from "./dom.js";
import * as format from "./format.js";
import { facts, statePill } from "./parts.js";

/** Everything known of a version. */
export function versionDetails(version) {
  const report = version.fold_report;
  return el("div", { class: "details" },
    el("div", { class: "pair" }, el("div", {}, facts(describe(version))), el("div", {}, certificate(version.certificate))),
    report.length > 0 ? foldTable(report) : el("p", { class: "soft", text: "The network has no normalisation layer to fold." }));
}

/** Accuracy before folding; a version that was made without labels has none. */
export function measured(version) {
  const known = Number(version.evaluated_samples) > 0 || version.training_job;
  return format.percent(known ? version.accuracy_unfolded : null);
}

function origin(version) {
  if (!version.training_job) return ["Origin", [version.origin, ...version.sources.map((name) => name.split("/").filter((_, i) => i % 2).join(" / "))].join(" ← ")];
  const id = format.id(version.training_job);
  return ["Job", el("a", { href: `#/jobs/${encodeURIComponent(id)}`, text: id })];
}

function describe(version) {
  const [, model, , number] = version.name.split("/");
  return [
    ["Version", el("strong", { text: `${model} / ${number}` })],
    ["Accuracy, held out", measured(version)],
    ["Parameters", format.integer(version.parameter_count)],
    ["Statistics", version.population_statistics],
    ["Input", signature(version.inputs)],
    ["Output", signature(version.outputs)],
    ["Published", format.date(version.create_time)],
    origin(version),
    ["Artifact", el("code", { text: version.artifact_uri })],
    ["Manifest", el("code", { text: version.manifest_sha256 })],
  ];
}

const signature = (tensors) => tensors.map((t) => `${t.name} ${t.datatype} [${t.shape.map((n) => (Number(n) < 0 ? "batch" : n)).join(", ")}]`).join("; ");

function certificate(proof) {
  if (!proof) return el("p", { class: "soft", text: "It has no certificate." });
  const passed = proof.passed;
  return facts([
    ["Certificate", statePill(passed ? "passed" : "not passed", passed ? "Passed" : "Not passed")],
    ["Largest error", el("span", { class: "number", text: format.scientific(proof.max_error) })],
    ["Largest allowed", el("span", { class: "number", text: format.scientific(proof.bound) })],
    ["Samples", format.integer(proof.samples)],
    ["Digest", el("code", { text: proof.digest })],
  ]);
}

function foldTable(report) {
  const withReasons = report.some((entry) => entry.reason);
  const heads = ["Normalisation layer", "Became", "Taken up by", ...(withReasons ? ["Why"] : [])];
  const rows = report.map((entry) => el("tr", {},
    el("td", { "data-label": "Layer", class: "wide" }, el("code", { text: entry.layer })),
    el("td", { "data-label": "Became" }, statePill(entry.status)),
    el("td", { "data-label": "Taken up by", class: entry.into ? "" : "none" }, entry.into ? el("code", { text: entry.into }) : "–"),
    withReasons && el("td", { "data-label": "Why", class: entry.reason ? "wide" : "none" }, entry.reason || "–")));
  return el("table", { class: "cards fold", "aria-label": "Fold report" },
    el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, rows));
}
