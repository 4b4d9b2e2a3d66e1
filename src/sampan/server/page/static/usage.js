// What has been used so far, from `GET /v1/usage`: tokens by model, and their price elsewhere.

import { $, h } from "./dom.js";
import { dollars, duration, energy, whole } from "./figures.js";

const COLUMNS = [
  ["Model", (row) => row.model],
  ["Requests", (row) => whole(row.requests)],
  ["Prompt tokens", (row) => whole(row.prompt_tokens)],
  ["Of them cached", (row) => whole(row.cached_tokens)],
  ["Answer tokens", (row) => whole(row.completion_tokens)],
  ["Machine time", (row) => duration(row.machine_seconds)],
  ["Energy", (row) => (Number.isFinite(row.joules) ? energy(row.joules) : "–")],
];
const PRICES = [
  ["At the price of", (row) => row.model],
  ["Input, per million", (row) => dollars(row.input)],
  ["Output, per million", (row) => dollars(row.output)],
  ["These tokens", (row) => dollars(row.usd)],
  ["Source", (row) => [row.source, row.date].filter(Boolean).join(", ")],
];

/** Fills the two tables. */
export function showUsage({ total, models, key }) {
  const { cost } = total;
  $("#usage").hidden = false;
  $("#usage-title").textContent = key === null ? "Usage so far" : "Usage of this key so far";
  table($("#used"), COLUMNS, models.length > 1 ? [...models, { ...total, model: "All" }] : models);
  table($("#prices"), PRICES, cost.published);
  const price = Number.isFinite(cost.machine_usd) && `: ${dollars(cost.machine_usd)} at ${dollars(cost.price_per_hour)} an hour`;
  $("#machine-cost").textContent = `This machine was busy for ${duration(total.machine_seconds)}${price || ""}.`;
}

function table(element, columns, rows) {
  const cell = (tag, text, index, count) => h(tag, { class: index && index < count ? "right" : null, scope: tag === "th" && "col" }, text);
  const last = columns === PRICES ? columns.length - 1 : columns.length;
  const head = h("tr", {}, ...columns.map(([name], index) => cell("th", name, index, last)));
  const lines = rows.map((row) => h("tr", {}, ...columns.map(([, text], index) => cell("td", text(row), index, last))));
  element.replaceChildren(h("thead", {}, head), h("tbody", {}, ...lines));
}
