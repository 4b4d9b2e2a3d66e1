// Anthropic's SDK for JavaScript, its tool runner included.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { KEY, MODEL, QUESTION, URL, WEATHER, check, drive } from "./steps.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const asked = { role: "user", content: QUESTION };
const tools = [{ name: "weather", description: "The weather of a city", input_schema: WEATHER }];

async function chat() {
  const answer = await client.messages.create({ model: MODEL, messages: [asked], max_tokens: 20 });
  check(answer.content.length, answer);
}

async function stream() {
  const events = client.messages.stream({ model: MODEL, messages: [asked], max_tokens: 20 });
  check(await events.finalText(), "no text");
}

async function tools_and_second_turn() {
  const request = { model: MODEL, tools, max_tokens: 60 };
  const answer = await client.messages.create({ ...request, messages: [asked], tool_choice: { type: "any" } });
  const calls = answer.content.filter((block) => block.type === "tool_use");
  check(calls.length, answer);
  const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "rain" }));
  const messages = [asked, { role: "assistant", content: answer.content }, { role: "user", content: results }];
  check((await client.messages.create({ ...request, messages })).content.length, "no content");
}

async function tool_runner() {
  const tool = betaTool({ ...tools[0], inputSchema: WEATHER, run: () => "rain" });
  const request = { model: MODEL, messages: [asked], tools: [tool], max_tokens: 30, max_iterations: 2 };
  check((await client.beta.messages.toolRunner(request).runUntilDone()).content, "no content");
}

await drive("@anthropic-ai/sdk", chat, stream, tools_and_second_turn, tool_runner);
