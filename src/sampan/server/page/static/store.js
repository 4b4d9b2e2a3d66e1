// Conversations and choices, kept in this browser.
//
// A conversation: {id, title, created, updated, model, settings, messages}; a message: {role, content} and, for
// answers, {reasoning, seconds (thinking), model, stats, stopped, finish, error}.

import { toast } from "./dom.js";

const PREFIX = "sampan.conversation.";
const FIELDS = ["system", "temperature", "top_p", "top_k", "max_tokens", "seed"];

/** A value of the browser's storage, or null where there is none or no storage. */
export function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(`sampan.${name}`));
  } catch {
    return null;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(`sampan.${name}`, JSON.stringify(value));
    return true;
  } catch {
    toast("The browser's storage is full: this is not kept. Export and delete old conversations.");
    return false;
  }
}

/** All conversations, the latest first. */
export function all() {
  const found = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  const read = found.map((name) => checked(kept(name.slice("sampan.".length)))).filter(Boolean);
  return read.sort((a, b) => b.updated - a.updated);
}

export const find = (id) => checked(kept(`conversation.${id}`));

export function save(conversation) {
  keep(`conversation.${conversation.id}`, conversation);
}

export function remove(id) {
  localStorage.removeItem(PREFIX + id);
}

/** A new one, with the model and settings of `like`. It is saved with its first message. */
export function create(like) {
  const now = Date.now();
  const { model = null, settings = kept("settings") ?? {} } = like ?? {};
  return { id: fresh(), title: "", created: now, updated: now, model, settings: { ...settings }, messages: [] };
}

/** Every conversation as the text of a file. */
export function exported() {
  return JSON.stringify({ format: "sampan-conversations", version: 1, conversations: all() }, null, 1);
}

/** Takes a file's conversations in beside those that are here; how many. Throws on a file of another kind. */
export function imported(text) {
  const file = JSON.parse(text);
  if (file?.format !== "sampan-conversations" || !Array.isArray(file.conversations)) {
    throw new Error("this is no file of conversations");
  }
  const good = file.conversations.map(checked).filter(Boolean);
  for (const conversation of good) {
    const here = find(conversation.id);
    if (here && JSON.stringify(here) !== JSON.stringify(conversation)) conversation.id = fresh();
    save(conversation);
  }
  return good.length;
}

/** What may come from a file or an older page: only known fields of the right kinds, or null. */
function checked(value) {
  if (typeof value?.id !== "string" || !/^[\w-]{1,64}$/.test(value.id) || !Array.isArray(value.messages)) return null;
  const messages = value.messages.filter(
    (message) => ["user", "assistant"].includes(message?.role) && typeof message.content === "string",
  );
  const settings = Object.fromEntries(FIELDS.map((name) => [name, value.settings?.[name]]).filter(([, v]) => isPlain(v)));
  const number = (v) => (Number.isFinite(v) ? v : Date.now());
  return {
    id: value.id,
    title: String(value.title ?? "").slice(0, 200),
    created: number(value.created),
    updated: number(value.updated),
    model: typeof value.model === "string" ? value.model : null,
    settings,
    messages: messages.map(checkedMessage),
  };
}

function checkedMessage(message) {
  const { role, content } = message;
  if (role === "user") return { role, content };
  const kept = { role, content };
  for (const name of ["reasoning", "model", "finish", "error"]) {
    if (typeof message[name] === "string") kept[name] = message[name];
  }
  if (Number.isFinite(message.seconds)) kept.seconds = message.seconds;
  if (message.stopped === true) kept.stopped = true;
  if (message.stats && Object.values(message.stats).every((v) => v === null || Number.isFinite(v))) kept.stats = message.stats;
  return kept;
}

const isPlain = (value) => typeof value === "string" || Number.isFinite(value);

const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
