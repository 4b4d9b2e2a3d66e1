// Figures as people read them.

/** A count or a rate. */
export function whole(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (value >= 10_000) return `${(value / 1000).toFixed(value < 100_000 ? 1 : 0)}k`;
  return value.toFixed(value % 1 && value < 10 ? 1 : 0);
}

/** A part of 1. */
export const percent = (value) => `${Math.round(100 * value)}%`;

/** US dollars, small ones with two digits that count. */
export function dollars(value) {
  if (value === 0) return "$0";
  if (value >= 0.1) return `$${value.toFixed(2)}`;
  return `$${value.toFixed(Math.min(10, 1 - Math.floor(Math.log10(value))))}`;
}

/** Seconds, in the two largest units. */
export function duration(seconds) {
  const [d, hours, m] = [seconds / 86_400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (d) return `${d} d ${hours} h`;
  if (hours) return `${hours} h ${m} min`;
  return m ? `${m} min` : `${Math.floor(seconds)} s`;
}

/** Energy in joules, or watt-hours where there are many. */
export const energy = (joules) => (joules < 3600 ? `${whole(joules)} J` : `${whole(joules / 3600)} Wh`);
