// Puts the page together: views, models, the composer, keys of the keyboard.

import { Failure, getJson } from "./api.js";
import { Chat } from "./chat.js";
import { $, h, say, toast } from "./dom.js";
import { Load } from "./load.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";

const STARTERS = [
  "Explain how a sailing boat can move against the wind.",
  "Write a Python function that checks whether a word is a palindrome.",
  "What should I see in Lisbon in two days?",
];
const THEMES = { "": "as the system", light: "light", dark: "dark" };

const chat = new Chat({ changed: () => sidebar.show(), model: () => $("#model").value, key: () => settings.open("key") });
const sidebar = new Sidebar({ open, create, current: () => chat.conversation, renamed, deleted });
const settings = new Settings({ current: () => chat.conversation, saved, keyChanged });
const load = new Load();

function show(conversation) {
  chat.open(conversation);
  store.keep("current", conversation.id);
  choose(conversation.model);
  sidebar.show();
}

function open(id) {
  view("chat");
  const running = chat.running.get(id)?.conversation;
  show(running ?? store.find(id) ?? store.create(chat.conversation));
}

function create() {
  view("chat");
  show(store.create(chat.conversation));
  $("#message").focus();
}

function renamed(id, title) {
  const conversation = id === chat.conversation.id ? chat.conversation : store.find(id);
  conversation.title = title;
  store.save(conversation);
  if (conversation === chat.conversation) $("#title").textContent = title;
}

function deleted(id) {
  chat.forget(id);
  if (id === chat.conversation.id) show(store.create(chat.conversation));
}

function saved() {
  if (chat.conversation.messages.length) store.save(chat.conversation);
}

function keyChanged() {
  models();
  load.restart();
}

/** Fills the choice of models; adapters are models too. */
async function models() {
  try {
    const { data } = await getJson("/v1/models");
    const adapters = data.filter((model) => model.parent);
    const bases = data.filter((model) => !model.parent);
    const option = (model) => h("option", { value: model.id }, model.id);
    $("#model").replaceChildren(...bases.map(option));
    if (adapters.length) $("#model").append(h("optgroup", { label: "Adapters" }, ...adapters.map(option)));
    choose(chat.conversation.model);
  } catch (error) {
    if (error instanceof Failure && error.status === 401) settings.open("key");
    else toast(error.message, { label: "Try again", run: models });
  }
}

function choose(model) {
  const options = [...$("#model").options];
  const known = options.find((option) => option.value === model) ?? options[0];
  if (known) $("#model").value = known.value;
}

/** Shows one of the two views. */
function view(name) {
  for (const each of ["chat", "load"]) {
    const chosen = each === name;
    $(`#${each}`).hidden = !chosen;
    $(`#tab-${each}`).setAttribute("aria-selected", String(chosen));
    $(`#tab-${each}`).tabIndex = chosen ? 0 : -1;
  }
  history.replaceState(null, "", name === "load" ? "#/load" : location.pathname);
  load.show(name === "load");
  if (name === "chat" && chat.stuck) chat.toEnd();
}

function tabs() {
  for (const name of ["chat", "load"]) $(`#tab-${name}`).addEventListener("click", () => view(name));
  $(".tabs").addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    const other = $("#load").hidden ? "load" : "chat";
    view(event.key === "Home" ? "chat" : event.key === "End" ? "load" : other);
    $(".tabs [aria-selected=true]").focus();
    event.preventDefault();
  });
}

function composer() {
  const field = $("#message");
  const send = () => {
    if (!field.value.trim() || chat.busy) return;
    chat.send(field.value.trim());
    field.value = "";
    fit(field);
  };
  $("#composer").addEventListener("submit", (event) => (event.preventDefault(), send()));
  field.addEventListener("input", () => fit(field));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("#stop").addEventListener("click", () => chat.stop());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("#settings").open) chat.stop();
  });
}

function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function starters() {
  const begin = (text) => (($("#message").value = text), $("#composer").requestSubmit());
  const item = (text) => h("li", {}, h("button", { type: "button", onclick: () => begin(text) }, text));
  $("#starters").append(...STARTERS.map(item));
}

function theme() {
  const root = document.documentElement;
  const names = Object.keys(THEMES);
  const label = () => $("#theme").setAttribute("aria-label", `Colours: ${THEMES[root.dataset.theme] ?? THEMES[""]}`);
  $("#theme").addEventListener("click", () => {
    root.dataset.theme = names[(names.indexOf(root.dataset.theme) + 1) % names.length];
    localStorage.setItem("sampan.theme", root.dataset.theme);
    label();
    say($("#theme").getAttribute("aria-label"));
  });
  label();
}

tabs();
composer();
starters();
theme();
$("#model").addEventListener("change", () => ((chat.conversation.model = $("#model").value), saved()));
window.addEventListener("pagehide", () => chat.busy && store.save(chat.conversation));
show(store.find(store.kept("current") ?? "") ?? store.create());
view(location.hash === "#/load" ? "load" : "chat");
models();
