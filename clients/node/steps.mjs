// What each client script here does the same: run named steps and say how each ended, a JSON line a step.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

export const URL = process.env.SAMPAN_URL;
export const MODEL = process.env.SAMPAN_MODEL;
export const KEY = process.env.SAMPAN_KEY;
export const QUESTION = "What is the capital of France?";
// Cities by enum, so that a small model's call ends soon.
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "London", "Rome"] } },
  required: ["city"],
};

export function check(holds, found) {
  if (!holds) throw new Error(`got ${JSON.stringify(found)}`);
}

export function version(name) {
  for (const folder of createRequire(import.meta.url).resolve.paths(name)) {
    try {
      return JSON.parse(readFileSync(join(folder, name, "package.json"), "utf8")).version;
    } catch {
      continue;
    }
  }
  throw new Error(`${name} is not installed`);
}

export async function drive(name, ...steps) {
  console.log(JSON.stringify({ version: version(name) }));
  for (const step of steps) {
    let error = null;
    try {
      await step();
    } catch (problem) {
      console.error(problem);
      error = `${problem.name}: ${problem.message}`;
    }
    console.log(JSON.stringify({ step: step.name, error }));
  }
}
