// A line plot over the last minutes, as SVG: one or several series of one unit, a legend with the values.

import { h, s } from "./dom.js";

const SPAN = 180; // seconds shown, fewer as long as there are no more
const LEAST_SPAN = 30;
const EDGE = { left: 56, right: 10, top: 10, bottom: 22 };
const HEIGHT = 190;
const GAP = 5; // seconds without a figure that leave a gap in the line

export class Plot {
  #points = []; // [{time, values}], values by a series' name
  #names = [];
  #at = null; // the time under the pointer

  /** `format(value)` writes a value; `top`: the axis' end, where it is fixed; `least`: that it never is below. */
  constructor(title, { format, top = null, least = 0 }) {
    this.title = title;
    this.format = format;
    this.top = top;
    this.least = least;
    this.svg = s("svg", { class: "plot", role: "img", height: HEIGHT });
    this.legend = h("ul", { class: "legend" });
    const head = h("figcaption", {}, h("h2", {}, title), this.legend);
    this.element = h("figure", { class: "card" }, head, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => ((this.#at = null), this.draw()));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /** Adds what was measured at a time (in seconds): {name: value}. What is no number is left out. */
  push(time, values) {
    const good = Object.entries(values).filter(([, value]) => Number.isFinite(value));
    this.#points.push({ time, values: Object.fromEntries(good) });
    while (this.#points[0].time < time - SPAN) this.#points.shift();
    for (const [name] of good) if (!this.#names.includes(name)) this.#names.push(name);
    this.element.hidden = this.#names.length === 0;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    if (!width || !this.#points.length) return;
    const now = this.#points.at(-1).time;
    const top = this.#top();
    const span = this.#span();
    const x = (time) => EDGE.left + (1 - (now - time) / span) * (width - EDGE.left - EDGE.right);
    const y = (value) => EDGE.top + (1 - value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const cross = this.#shown();
    this.svg.replaceChildren(...this.#grid(top, width, y), ...this.#times(width, span), ...this.#lines(x, y));
    if (this.#at !== null) this.svg.append(s("path", { class: "cross", d: `M${x(cross.time)} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }));
    this.#tell(cross);
  }

  /** The axis' end: fixed, or the next round number. */
  #top() {
    if (this.top !== null) return this.top;
    const most = Math.max(this.least, ...this.#points.flatMap((point) => Object.values(point.values)));
    if (most === 0) return 1;
    const scale = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 4, 6, 8, 10].find((step) => step * scale >= most) * scale;
  }

  #grid(top, width, y) {
    return [0, 0.5, 1].flatMap((part) => {
      const at = y(part * top);
      const line = s("path", { class: part ? "grid" : "base", d: `M${EDGE.left} ${at}H${width - EDGE.right}` });
      return [line, s("text", { class: "y", x: EDGE.left - 8, y: at + 4 }, this.format(part * top))];
    });
  }

  #span() {
    return Math.min(SPAN, Math.max(LEAST_SPAN, this.#points.at(-1).time - this.#points[0].time));
  }

  #times(width, span) {
    const ago = span < SPAN ? `${Math.round(span)} s ago` : `${SPAN / 60} min ago`;
    const labels = [[EDGE.left, ago, "from"], [width - EDGE.right, "now", "to"]];
    return labels.map(([x, text, end]) => s("text", { class: end, x, y: HEIGHT - 4 }, text));
  }

  #lines(x, y) {
    return this.#names.map((name, index) => s("path", { class: `line s${index % 6}`, d: this.#path(name, x, y) }));
  }

  #path(name, x, y) {
    let path = "";
    let before = -Infinity;
    for (const { time, values } of this.#points) {
      if (!(name in values)) continue;
      path += `${time - before > GAP ? "M" : "L"}${x(time).toFixed(1)} ${y(values[name]).toFixed(1)}`;
      before = time;
    }
    return path;
  }

  /** The figures to tell: those under the pointer, else the latest. */
  #shown() {
    if (this.#at === null) return this.#points.at(-1);
    const distance = (point) => Math.abs(point.time - this.#at);
    return this.#points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  }

  #tell({ values }) {
    const words = this.#names.map((name) => [name, name in values ? this.format(values[name]) : "–"]);
    const item = ([name, value], index) => h("li", { class: `s${index % 6}` }, name, h("b", {}, value));
    this.legend.replaceChildren(...words.map(item));
    this.svg.setAttribute("aria-label", `${this.title}, now: ${words.map((pair) => pair.join(" ")).join(", ")}`);
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const part = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    if (!this.#points.length) return;
    this.#at = this.#points.at(-1).time - (1 - Math.min(1, Math.max(0, part))) * this.#span();
    this.draw();
  }
}
