// One message on the page: a question as it was typed, or an answer as it grows.

import { copy, h, icon, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";

/** A question. `actions.edited(text)` is called with a new wording. */
export class Question {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.element = h("article", { class: "question", "aria-label": "You" });
    this.#show();
  }

  #show() {
    const { content } = this.message;
    const tools = h("div", { class: "tools" });
    tools.append(
      iconButton("pen", "Edit", () => this.edit()),
      iconButton("copy", "Copy", (event) => copy(content, event.currentTarget)),
    );
    this.element.replaceChildren(h("div", { class: "bubble" }, content), tools);
  }

  edit() {
    const back = () => (this.#show(), this.element.querySelector("button").focus());
    this.element.replaceChildren(editor(this.message.content, "Send", (text) => this.actions.edited(text), back));
    this.element.querySelector("textarea").focus();
  }
}

/** An answer. `actions`: again(), edited(text), key() to enter an API key. */
export class Answer {
  #text = null;
  #waiting = false;

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.prose = h("div", { class: "prose" });
    this.thoughts = h("div", { class: "thoughts" });
    this.summary = h("summary");
    this.details = h("details", { class: "thinking", hidden: true }, this.summary, this.thoughts);
    this.foot = h("footer");
    const name = message.model ? `Answer of ${message.model}` : "Answer";
    this.element = h("article", { class: "answer", "aria-label": name }, this.details, this.prose, this.foot);
    this.details.addEventListener("toggle", () => this.#showThoughts());
  }

  /** Shows the message as far as it has come; at most once a frame. */
  grow() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.element.classList.contains("growing")) this.#grown();
    });
  }

  begin() {
    this.element.classList.add("growing");
    this.element.setAttribute("aria-busy", "true");
    this.prose.replaceChildren(h("span", { class: "dots", role: "img", "aria-label": "Waiting for the answer" }));
    this.foot.replaceChildren();
  }

  #grown() {
    const { content, reasoning } = this.message;
    if (reasoning) this.#showThinking();
    if (!content) return;
    this.#text ??= new Markdown(this.prose);
    this.#text.update(content);
  }

  /** Shows the message as it stays. Resolves when everything is rendered. */
  async settle() {
    this.element.classList.remove("growing");
    this.element.removeAttribute("aria-busy");
    if (this.message.reasoning) this.#showThinking();
    this.#showFoot();
    if (!this.message.content) return this.prose.replaceChildren();
    this.#text ??= new Markdown(this.prose);
    await this.#text.finish(this.message.content);
  }

  #showThinking() {
    const { content, reasoning, seconds } = this.message;
    const going = this.element.classList.contains("growing") && !content;
    this.details.hidden = false;
    this.details.classList.toggle("going", going);
    const took = seconds ? ` for ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s` : "";
    this.summary.textContent = going ? "Thinking…" : `Thought${took}`;
    if (going && this.prose.querySelector(".dots")) this.prose.replaceChildren();
    if (this.element.classList.contains("growing")) this.thoughts.textContent = reasoning;
    else this.#showThoughts();
  }

  /** Thoughts are rendered when they are looked at. */
  #showThoughts() {
    if (!this.details.open || this.element.classList.contains("growing")) return;
    new Markdown(this.thoughts).finish(this.message.reasoning);
  }

  #showFoot() {
    const { message, actions } = this;
    const tools = h("div", { class: "tools" });
    if (message.content) tools.append(iconButton("copy", "Copy answer", (event) => copy(message.content, event.currentTarget)));
    tools.append(iconButton("again", "Answer again", () => actions.again()));
    if (message.content) tools.append(iconButton("pen", "Edit answer", () => this.edit()));
    const failed = message.error ? problem(message, actions) : null;
    this.foot.replaceChildren(...[failed, h("p", { class: "stats" }, told(message)), tools].filter(Boolean));
  }

  edit() {
    const back = () => ((this.#text = null), this.settle());
    const changed = (text) => (this.actions.edited(text), back());
    this.foot.replaceChildren();
    this.prose.replaceChildren(editor(this.message.content, "Keep", changed, back));
    this.prose.querySelector("textarea").focus();
  }
}

/** What failed, and what can be done. */
function problem(message, actions) {
  const again = h("button", { type: "button", class: "plain", onclick: () => actions.again() }, icon("again"), "Try again");
  const key = h("button", { type: "button", class: "plain", onclick: () => actions.key() }, "Enter a key");
  return h("div", { class: "failed", role: "alert" }, h("p", {}, message.error), again, message.needsKey ? key : null);
}

/** The line below an answer: how it ended, how much and how fast. */
function told({ stats, stopped, finish, model }) {
  const parts = [];
  if (stats?.tokens) parts.push(`${stats.tokens} tokens`);
  if (stats?.rate) parts.push(`${stats.rate < 10 ? stats.rate.toFixed(1) : Math.round(stats.rate)} tokens/s`);
  if (Number.isFinite(stats?.first)) parts.push(`first after ${stats.first.toFixed(2)} s`);
  if (stats?.prompt) parts.push(`${stats.prompt} in the prompt`);
  if (model) parts.push(model);
  if (stopped) parts.unshift("Stopped");
  if (finish === "length") parts.unshift("Cut at the longest answer allowed");
  return parts.join(" · ");
}

/** A field to change a text in. Enter takes it, Escape leaves it. */
function editor(text, verb, take, leave) {
  const area = h("textarea", { "aria-label": "Message to edit", rows: "3" });
  area.value = text;
  const done = () => (area.value.trim() ? take(area.value) : leave());
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) done();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const row = h("div", { class: "row" });
  row.append(
    h("button", { type: "button", class: "plain", onclick: leave }, "Cancel"),
    h("button", { type: "button", class: "main", onclick: done }, verb),
  );
  return h("div", { class: "editor" }, area, row);
}
