// The conversation on the page: what is asked, how answers come in, what stopping and asking again do.

import { chat as stream, Failure } from "./api.js";
import { $, say, toast } from "./dom.js";
import { Answer, Question } from "./message.js";
import * as store from "./store.js";

const SAVE_EVERY = 1000; // ms between two savings of a growing answer

export class Chat {
  /** `hooks`: changed() when the list of conversations may have, model() the one to ask, key() to enter a key. */
  constructor(hooks) {
    this.hooks = hooks;
    this.running = new Map(); // conversation's id -> {stop, conversation, message, view, forgotten}
    this.stuck = true; // to the end of the conversation
    const area = $("#scroll");
    area.addEventListener("scroll", () => this.#scrolled(area), { passive: true });
    new ResizeObserver(() => this.stuck && this.toEnd()).observe($("#messages"));
    $("#latest").addEventListener("click", () => this.toEnd());
  }

  /** Shows a conversation. */
  open(conversation) {
    this.conversation = conversation;
    $("#messages").replaceChildren();
    for (const message of conversation.messages) this.#show(message);
    this.#head();
    this.toEnd();
  }

  get busy() {
    return this.running.has(this.conversation.id);
  }

  send(text) {
    const { conversation } = this;
    const message = { role: "user", content: text };
    conversation.messages.push(message);
    conversation.title ||= text.trim().split("\n")[0].slice(0, 80);
    this.#show(message);
    this.#answer();
  }

  /** The conversation is deleted: its answer ends, and is not kept. */
  forget(id) {
    const running = this.running.get(id);
    if (running) running.forgotten = true;
    this.stop(id);
  }

  stop(id = this.conversation.id) {
    this.running.get(id)?.stop.abort();
  }

  toEnd() {
    this.stuck = true;
    const area = $("#scroll");
    area.scrollTop = area.scrollHeight;
    $("#latest").hidden = true;
  }

  /** Forgets the messages from `message` on. */
  #cut(message) {
    const { conversation } = this;
    this.stop();
    this.running.delete(conversation.id);
    const at = conversation.messages.indexOf(message);
    conversation.messages.length = at;
    const shown = [...$("#messages").children];
    for (const element of shown.slice(at)) element.remove();
  }

  #again(message) {
    this.#cut(message);
    this.#answer();
  }

  #edited(message, text) {
    this.#cut(message);
    this.send(text);
  }

  #show(message) {
    const view = message.role === "user" ? this.#question(message) : this.#answerView(message);
    $("#messages").append(view.element);
    const running = this.running.get(this.conversation.id);
    if (running?.message === message) {
      running.view = view;
      view.begin();
      view.grow();
    } else if (view instanceof Answer) view.settle();
    return view;
  }

  #question(message) {
    return new Question(message, { edited: (text) => this.#edited(message, text) });
  }

  #answerView(message) {
    const { conversation } = this;
    return new Answer(message, {
      again: () => this.#again(message),
      key: () => this.hooks.key(),
      edited: (text) => {
        message.content = text;
        store.save(conversation);
      },
    });
  }

  /** Asks for the next answer of the open conversation and follows it to its end. */
  async #answer() {
    const { conversation } = this;
    const model = this.hooks.model();
    const body = request(conversation, model);
    const message = { role: "assistant", content: "", model };
    const running = { stop: new AbortController(), conversation, message, forgotten: false };
    conversation.model = model;
    conversation.updated = Date.now();
    conversation.messages.push(message);
    this.running.set(conversation.id, running);
    this.#show(message);
    this.#head();
    this.toEnd();
    store.save(conversation);
    this.hooks.changed();
    say("Answering");
    await this.#follow(conversation, running, body);
    if (this.running.get(conversation.id) === running) this.running.delete(conversation.id);
    if (conversation.messages.includes(message)) await this.#ended(conversation, running);
  }

  async #follow(conversation, running, body) {
    const { message } = running;
    const clock = new Clock();
    const saving = setInterval(() => running.forgotten || store.save(conversation), SAVE_EVERY);
    try {
      for await (const part of stream(body, running.stop.signal)) {
        clock.take(part);
        if (part.reasoning) message.reasoning = (message.reasoning ?? "") + part.reasoning;
        if (part.content && message.reasoning) message.seconds ??= clock.elapsed();
        message.content += part.content;
        message.finish = part.finish ?? message.finish;
        running.view.grow();
      }
    } catch (error) {
      failed(message, error);
    } finally {
      clearInterval(saving);
    }
    message.stats = clock.stats();
  }

  async #ended(conversation, running) {
    conversation.updated = Date.now();
    if (running.forgotten) return;
    store.save(conversation);
    this.hooks.changed();
    if (this.conversation !== conversation) return;
    this.#head();
    const { message } = running;
    await running.view.settle();
    const heard = running.view.prose.textContent.replace(/\s+/g, " ").trim();
    say(message.error ? "" : `${message.stopped ? "Stopped" : "Answer"}: ${heard.slice(0, 600)}`);
  }

  #head() {
    const { conversation, busy } = this;
    const title = conversation.title || "New conversation";
    $("#title").textContent = title;
    document.title = conversation.title ? `${title} – Sampan` : "Sampan";
    $("#welcome").hidden = conversation.messages.length > 0;
    const focused = document.activeElement === $("#stop") || document.activeElement === $("#send");
    $("#stop").hidden = !busy;
    $("#send").hidden = busy;
    if (focused) $("#message").focus();
  }

  #scrolled(area) {
    this.stuck = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    $("#latest").hidden = this.stuck;
  }
}

/** What is sent for the next answer of a conversation: reasoning and failed answers are not part of it. */
function request(conversation, model) {
  const { system, ...sampling } = conversation.settings;
  const said = conversation.messages.filter((message) => message.content);
  const messages = said.map(({ role, content }) => ({ role, content }));
  if (system?.trim()) messages.unshift({ role: "system", content: system });
  return { model, messages, ...sampling };
}

function failed(message, error) {
  if (error.name === "AbortError") {
    message.stopped = true;
    return;
  }
  if (!(error instanceof Failure)) console.error(error);
  const wait = error.retryAfter ? ` Ask again in ${Math.ceil(error.retryAfter)} s.` : "";
  message.error = `${error.message}${wait}`;
  if (error.status === 401) message.needsKey = true;
  if (error.status === 0) toast("No connection to the service.");
}

/** How many tokens an answer has and how fast they came. Without the service's count, a piece counts as one. */
class Clock {
  #start = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  take({ content, reasoning, usage }) {
    this.#usage = usage ?? this.#usage;
    if (!content && !reasoning) return;
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  elapsed() {
    return (performance.now() - (this.#first ?? this.#start)) / 1000;
  }

  stats() {
    if (this.#first === null) return null;
    const tokens = this.#usage?.completion_tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    const rate = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null;
    return { tokens, rate, first: (this.#first - this.#start) / 1000, prompt: this.#usage?.prompt_tokens ?? null };
  }
}
