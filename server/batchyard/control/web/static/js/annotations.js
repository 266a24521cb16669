// What people have written about a job: tags, to find it by, and a note. Both can be changed whatever its state.

import { ApiError, post } from "./api.js";
import { question } from "./dialog.js";
import { el, fill, setText } from "./dom.js";
import { id } from "./format.js";

const LONGEST_TAG = 64;
const LONGEST_NOTE = 2000;

/** Asks for a change {add_tags, remove_tags, note} of what is written about the job at `path`; gives the job as it is then. */
export const annotate = (path, change, signal) => post(`${path}/annotate`, signal, JSON.stringify(change));

/** A tag as a link to all jobs that have it. */
export const tagLink = (tag) => el("a", { class: "chip tag", href: `#/jobs?${new URLSearchParams({ search: tag })}`, title: `Jobs with ${tag}`, text: tag });

export class Annotations {
  /** `onChange(job)` is given the job as it is after a change. */
  constructor(path, { onChange, signal }) {
    Object.assign(this, { path, onChange, signal });
    this.tags = el("ul", { class: "tags", "aria-label": "Tags" });
    this.field = el("input", { type: "text", "aria-label": "Add a tag", placeholder: "Add a tag", maxlength: LONGEST_TAG, autocomplete: "off", autocapitalize: "none", spellcheck: "false", enterkeyhint: "done" });
    this.wrong = el("p", { class: "wrong", role: "alert" });
    this.edit = el("button", { type: "button", text: "Add a note", onclick: () => this.write() });
    this.note = el("p", { class: "note" });
    const form = el("form", { onsubmit: (event) => { event.preventDefault(); this.add(); } }, this.field);
    this.node = el("section", { class: "annotations", "aria-label": "Tags and note" }, el("div", { class: "tag-line" }, this.tags, form, this.edit), this.wrong, this.note);
  }

  /** Shows what is written about the job. */
  set(job) {
    this.job = job;
    setText(this.note, job.note);
    setText(this.edit, job.note ? "Edit the note" : "Add a note");
    const shown = job.tags.join(" ");
    if (shown === this.shown) return;
    this.shown = shown;
    fill(this.tags, job.tags.map((tag) => el("li", {}, tagLink(tag), el("button", { type: "button", class: "remove", "aria-label": `Remove the tag ${tag}`, text: "×", onclick: () => this.remove(tag) }))));
  }

  async add() {
    const tag = this.field.value.trim();
    if (tag && (await this.change({ add_tags: [tag] }))) this.field.value = "";
  }

  async remove(tag) {
    await this.change({ remove_tags: [tag] });
    this.field.focus(); // the button is gone
  }

  // Whether it was done; what kept it from that is told beneath.
  async change(change) {
    setText(this.wrong, "");
    try {
      this.onChange(await annotate(this.path, change, this.signal));
      return true;
    } catch (error) {
      if (!this.signal.aborted) setText(this.wrong, error instanceof ApiError ? error.message : "The service cannot be reached. Try again when it is.");
      return false;
    }
  }

  write() {
    const text = el("textarea", { rows: 6, maxlength: LONGEST_NOTE, "aria-label": "Note", autofocus: true });
    text.value = this.job.note;
    question({
      host: this.node, title: "Note", name: id(this.job.name), text: "For people: what was tried, and what came of it. Jobs are found by its words, too.", fields: text, verb: "Save", signal: this.signal,
      ask: async () => {
        const job = await annotate(this.path, { note: text.value.trim() }, this.signal);
        return () => {
          this.onChange(job);
          this.edit.focus();
        };
      },
    });
  }
}
