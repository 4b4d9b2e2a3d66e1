// The second view: what the service does right now, what its cache holds, what the tokens would cost elsewhere.
//
// `GET /page/live` is asked each second while the view is shown; a field that is missing is left out.

import { getJson } from "./api.js";
import { $, h } from "./dom.js";
import { dollars, duration, percent, whole } from "./figures.js";
import { Plot } from "./plot.js";
import { showUsage } from "./usage.js";

const EVERY = 1000; // ms
const USAGE_EVERY = 4; // figures between two looks at the usage that is kept

const TILES = [
  ["running", "Running", whole],
  ["waiting", "Waiting", whole],
  ["tokens_per_second", "Tokens per second", whole],
  ["cache_used", "Cache in use", percent],
  ["prefix_hit_rate", "Prompt from cache", percent],
  ["requests", "Requests", whole],
  ["errors", "Errors", whole],
  ["uptime_s", "Up for", duration],
];

export class Load {
  #shown = false;
  #timer = null;
  #failures = 0;
  #asked = 0;

  constructor() {
    this.tiles = new Map();
    for (const [name, label] of TILES) {
      const value = h("dd", {}, "–");
      this.tiles.set(name, value);
      $("#tiles").append(h("div", { class: "card", "data-tile": name }, h("dt", {}, label), value));
    }
    this.speed = new Plot("Tokens per second", { format: whole, least: 10 });
    this.requests = new Plot("Requests", { format: whole, least: 4 });
    this.cache = new Plot("Cache", { format: percent, top: 1 });
    this.cost = new Plot("Cost of the tokens so far", { format: dollars });
    $("#plots").append(...[this.speed, this.requests, this.cache, this.cost].map((plot) => plot.element));
    document.addEventListener("visibilitychange", () => this.restart());
  }

  show(shown) {
    this.#shown = shown;
    this.restart();
  }

  restart() {
    clearTimeout(this.#timer);
    this.#failures = this.#asked = 0;
    if (this.#shown && !document.hidden) this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    try {
      this.#take(await getJson("/page/live"));
      if (this.#asked++ % USAGE_EVERY === 0) showUsage(await getJson("/v1/usage"));
      this.#failures = 0;
      $("#load-note").textContent = "";
    } catch (error) {
      this.#failures += 1;
      $("#load-note").textContent = `No figures: ${error.message}`;
    }
    if (!this.#shown || document.hidden) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), EVERY * Math.min(2 ** this.#failures, 30));
  }

  #take(live) {
    for (const [name, , format] of TILES) {
      const value = live[name];
      this.tiles.get(name).textContent = Number.isFinite(value) ? format(value) : "–";
    }
    const time = Date.now() / 1000;
    this.speed.push(time, { "all requests": live.tokens_per_second });
    this.requests.push(time, { running: live.running, waiting: live.waiting });
    this.cache.push(time, { "in use": live.cache_used, "prompt from cache": live.prefix_hit_rate });
    this.cost.push(time, costs(live.cost?.cost));
  }
}

/** {name: US dollars}: this service, where its price is known, and the same tokens at published prices. */
function costs(cost) {
  const published = (cost?.published ?? []).map(({ model, usd }) => [model, usd]);
  return Object.fromEntries([["this service", cost?.machine_usd], ...published]);
}
