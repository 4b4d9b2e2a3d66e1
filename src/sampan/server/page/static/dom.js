// Small helpers to build the page: elements, icons, what is said to screen readers, short notices.

export const $ = (selector, root = document) => root.querySelector(selector);

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties (`class`, `aria-…`, `data-…` and `on…` included) and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === false || value === undefined || value === null) continue;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with attributes. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function icon(name) {
  return s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));
}

/** A button that shows an icon only. */
export function iconButton(name, label, onclick, extra = {}) {
  return h("button", { type: "button", class: "ghost", "aria-label": label, title: label, onclick, ...extra }, icon(name));
}

/** Says something once to a screen reader. */
export function say(text) {
  $("#said").textContent = text;
}

let hiding;

/** A notice that goes away; `action`: {label, run}. */
export function toast(text, action) {
  const hide = () => $("#toast").replaceChildren();
  const button = action && h("button", { type: "button", onclick: () => (hide(), action.run()) }, action.label);
  $("#toast").replaceChildren(h("div", {}, h("span", {}, text), button));
  clearTimeout(hiding);
  hiding = setTimeout(hide, action ? 9000 : 4000);
}

/** Copies, and shows on the button that it did. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    return toast("The browser does not allow copying here.");
  }
  const before = [...button.childNodes];
  button.replaceChildren(icon("check"), ...(button.classList.contains("ghost") ? [] : ["Copied"]));
  say("Copied");
  setTimeout(() => button.replaceChildren(...before), 1600);
}
