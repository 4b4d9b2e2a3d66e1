// OpenAI's SDK for JavaScript: Chat Completions and Responses, each with its own answers sent back as they came.
import OpenAI from "openai";
import { KEY, MODEL, QUESTION, URL, WEATHER, check, drive } from "./steps.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const asked = { role: "user", content: QUESTION };
const tools = [{ type: "function", function: { name: "weather", parameters: WEATHER } }];

async function chat() {
  const answer = await client.chat.completions.create({ model: MODEL, messages: [asked], max_tokens: 20 });
  check(answer.choices[0].message.content, answer);
}

async function stream() {
  const events = client.chat.completions.stream({ model: MODEL, messages: [asked], max_tokens: 20 });
  check(await events.finalContent(), "no text");
}

async function tools_and_second_turn() {
  const request = { model: MODEL, tools, tool_choice: "required", max_tokens: 60 };
  const answer = await client.chat.completions.create({ ...request, messages: [asked] });
  const { message } = answer.choices[0];
  check(message.tool_calls, answer);
  const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "rain" }));
  const messages = [asked, message, ...results];
  const second = await client.chat.completions.create({ model: MODEL, messages, tools, max_tokens: 20 });
  check(second.choices, second);
}

async function tool_runner() {
  const tool = {
    type: "function",
    function: { name: "weather", description: "The weather", parameters: WEATHER, parse: JSON.parse, function: () => "rain" },
  };
  const runner = client.chat.completions.runTools({ model: MODEL, messages: [asked], tools: [tool], temperature: 0 });
  check((await runner.finalContent()) !== undefined, "no content");
}

async function responses() {
  const tool = { type: "function", name: "weather", strict: true, parameters: { ...WEATHER, additionalProperties: false } };
  const request = { model: MODEL, tools: [tool], max_output_tokens: 60, store: false };
  const answer = await client.responses.create({ ...request, input: [asked], tool_choice: "required" });
  const calls = answer.output.filter((item) => item.type === "function_call");
  check(calls.length, answer);
  const results = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: "rain" }));
  const second = await client.responses.create({ ...request, input: [asked, ...answer.output, ...results] });
  check(second.output.length, second);
}

async function responses_stream() {
  const answer = await client.responses.stream({ model: MODEL, input: QUESTION, temperature: 0 }).finalResponse();
  check(answer.output_text, answer);
  const next = { model: MODEL, input: "And of Italy?", previous_response_id: answer.id, max_output_tokens: 20 };
  check((await client.responses.create(next)).output_text, "no text");
}

await drive("openai", chat, stream, tools_and_second_turn, tool_runner, responses, responses_stream);
