// The list of kept conversations: open, rename, delete, export, import; on a phone it slides in.

import { $, h, iconButton, toast } from "./dom.js";
import * as store from "./store.js";

export class Sidebar {
  /** `hooks`: open(id), create(), current() the open one, renamed(id, title), deleted(id). */
  constructor(hooks) {
    this.hooks = hooks;
    $("#new").addEventListener("click", () => (this.close(), hooks.create()));
    $("#export").addEventListener("click", download);
    $("#import").addEventListener("click", () => $("#import-file").click());
    $("#import-file").addEventListener("change", (event) => this.#import(event.target));
    $("#open-sidebar").addEventListener("click", () => this.#slide(true));
    for (const id of ["#close-sidebar", "#veil"]) $(id).addEventListener("click", () => this.close());
    $("#sidebar").addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    window.addEventListener("storage", () => this.show());
    const narrow = matchMedia("(max-width: 760px)");
    narrow.addEventListener("change", () => this.#slide(false));
    this.narrow = narrow;
    this.#slide(false);
  }

  show() {
    const current = this.hooks.current().id;
    const items = store.all().map((conversation) => this.#item(conversation, conversation.id === current));
    $("#conversations").replaceChildren(...items);
  }

  close() {
    if (!document.body.classList.contains("sidebar-open")) return;
    this.#slide(false);
    $("#open-sidebar").focus();
  }

  /** Out of sight on a phone, it is out of the tab order too. */
  #slide(open) {
    document.body.classList.toggle("sidebar-open", open);
    $("#open-sidebar").setAttribute("aria-expanded", String(open));
    $("#sidebar").inert = this.narrow.matches && !open;
    $("#stage").inert = open;
    $("#veil").hidden = !open;
    if (open) $("#new").focus();
  }

  #item(conversation, current) {
    const title = conversation.title || "Untitled";
    const open = () => (this.close(), this.hooks.open(conversation.id));
    const button = h("button", { type: "button", class: "title", "aria-current": current && "true", onclick: open }, title);
    const item = h("li", { class: current && "current" });
    item.append(
      button,
      iconButton("pen", `Rename ${title}`, () => this.#rename(item, conversation)),
      iconButton("bin", `Delete ${title}`, () => this.#delete(conversation)),
    );
    return item;
  }

  #rename(item, conversation) {
    const field = h("input", { "aria-label": "New name", maxlength: "80" });
    field.value = conversation.title;
    let over = false;
    const end = (taken) => {
      if (over) return;
      over = true;
      if (taken && field.value.trim()) this.hooks.renamed(conversation.id, field.value.trim());
      this.show();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.stopPropagation();
      end(event.key === "Enter");
      $("#conversations [aria-current]")?.focus();
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.select();
  }

  #delete(conversation) {
    const whole = store.find(conversation.id);
    this.hooks.deleted(conversation.id);
    store.remove(conversation.id);
    this.show();
    const run = () => (store.save(whole), this.show());
    toast(`Deleted “${conversation.title.slice(0, 40)}”`, { label: "Undo", run });
    $("#new").focus();
  }

  async #import(input) {
    try {
      const count = store.imported(await input.files[0].text());
      toast(`${count} ${count === 1 ? "conversation" : "conversations"} imported`);
      this.show();
    } catch (error) {
      toast(`Not imported: ${error instanceof SyntaxError ? "the file is no JSON" : error.message}`);
    }
    input.value = "";
  }
}

function download() {
  const url = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
  h("a", { href: url, download: `sampan-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
