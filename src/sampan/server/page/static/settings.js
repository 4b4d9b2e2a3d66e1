// The dialog for the system prompt, sampling and the API key; every change takes effect at once.

import { apiKey, keyIsRemembered, setApiKey } from "./api.js";
import { $ } from "./dom.js";
import * as store from "./store.js";

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

export class Settings {
  /** `hooks`: current() the open conversation, saved(), keyChanged(). */
  constructor(hooks) {
    this.hooks = hooks;
    this.dialog = $("#settings");
    this.form = $("form", this.dialog);
    $("#open-settings").addEventListener("click", () => this.open());
    this.form.addEventListener("change", (event) => this.#changed(event.target));
    this.form.addEventListener("keydown", (event) => {
      const typed = event.target instanceof HTMLInputElement;
      if (event.key === "Enter" && typed) event.preventDefault();
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** `field`: the id of the one to begin with. */
  open(field) {
    const { settings } = this.hooks.current();
    for (const name of ["system", ...NUMBERS]) this.form.elements[name].value = settings[name] ?? "";
    $("#key").value = apiKey();
    $("#remember").checked = keyIsRemembered();
    this.dialog.showModal();
    if (field) $(`#${field}`).focus();
  }

  #changed(input) {
    if (input.id === "key" || input.id === "remember") {
      setApiKey($("#key").value.trim(), $("#remember").checked);
      this.hooks.keyChanged();
      return;
    }
    const { settings } = this.hooks.current();
    const text = input.value.trim();
    if (!input.reportValidity()) return;
    if (text === "") delete settings[input.name];
    else settings[input.name] = NUMBERS.includes(input.name) ? Number(text) : input.value;
    store.keep("settings", settings);
    this.hooks.saved();
  }
}
