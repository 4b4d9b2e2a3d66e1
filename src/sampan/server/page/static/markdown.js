// Markdown as it grows. The server renders it; in between, what came since is shown as plain text.
//
// Only the last block of a text can still change: those before it stay as they are, and only it is rendered again.

import { postJson } from "./api.js";
import { copy, h, icon } from "./dom.js";

const EVERY = 120; // ms between two renderings of a growing text, and more where they take long:
const SHARE = 4; // of the time, the server is left alone so many times as long as it works
const MOST = 90_000; // characters that are rendered at once
const MEMORY = 200;

const memory = new Map();

/** The blocks of a text: [{line, html}]. The HTML comes from this service, which makes it safe. */
async function rendered(text) {
  const known = memory.get(text);
  if (known) return known;
  const { blocks } = await postJson("/page/render", { text });
  memory.set(text, blocks);
  if (memory.size > MEMORY) memory.delete(memory.keys().next().value);
  return blocks;
}

export class Markdown {
  #live = h("div");
  #tail = h("span");
  #text = "";
  #start = 0; // where the live block begins
  #covered = 0; // how much of the text the shown HTML covers
  #timer = null;
  #pause = EVERY;
  #over = false;

  constructor(root) {
    this.root = root;
    root.replaceChildren(this.#live);
  }

  /** The text so far, which begins as it did before. */
  update(text) {
    this.#text = clean(text);
    this.#showTail();
    this.#timer ??= setTimeout(() => this.#step(), this.#pause);
  }

  /** The whole text; resolves when it is shown as it will stay. */
  async finish(text) {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#text = clean(text);
    this.#showTail();
    try {
      if (this.#text.length > MOST) return await this.#advance();
      const blocks = await rendered(this.#text);
      this.root.innerHTML = blocks.map((block) => block.html).join("");
    } catch {
      // The service is busy or gone: the text stays as it is shown, readable.
    }
    withCopyButtons(this.root);
  }

  async #step() {
    const start = performance.now();
    try {
      await this.#advance();
    } catch {
      // The next step tries again.
    }
    this.#pause = Math.max(EVERY, SHARE * (performance.now() - start));
    this.#timer = null;
    if (!this.#over && this.#covered < this.#text.length) this.update(this.#text);
  }

  async #advance() {
    const end = Math.min(this.#text.length, this.#start + MOST);
    const text = this.#text.slice(this.#start, end);
    const { blocks } = await postJson("/page/render", { text });
    if (this.#over && this.#text.length <= MOST) return;
    const last = blocks.pop();
    for (const block of blocks) {
      this.#live.innerHTML = block.html;
      withCopyButtons(this.#live);
      this.#live.before(...this.#live.childNodes);
    }
    this.#live.innerHTML = last?.html ?? "";
    this.#covered = end;
    if (blocks.length) this.#start += offsetOf(text, last.line);
    this.#showTail();
  }

  /** What is not rendered yet goes where the text left off: into the last paragraph, item or line of code. */
  #showTail() {
    this.#tail.textContent = this.#text.slice(this.#covered);
    let place = this.#live;
    this.#tail.remove();
    while (place.lastElementChild && !place.lastElementChild.closest("math")) place = place.lastElementChild;
    place.append(this.#tail);
  }
}

/** Line ends as the renderer counts them. */
const clean = (text) => text.replace(/\r\n?/g, "\n");

function offsetOf(text, line) {
  let offset = 0;
  for (let i = 0; i < line; i++) offset = text.indexOf("\n", offset) + 1;
  return offset;
}

function withCopyButtons(root) {
  for (const head of root.querySelectorAll("figure.code > figcaption:not(:has(button))")) {
    const code = head.parentElement.querySelector("code");
    const button = h("button", { type: "button", "aria-label": "Copy code", onclick: () => copy(code.textContent, button) });
    button.append(icon("copy"), "Copy");
    head.append(button);
  }
}
