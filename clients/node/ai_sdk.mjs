// The AI SDK with its three providers: what most agents and editors written in JavaScript call.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { KEY, MODEL, QUESTION, URL, WEATHER, check, drive } from "./steps.mjs";

const settings = { baseURL: `${URL}/v1`, apiKey: KEY };
const weather = tool({ description: "The weather", inputSchema: jsonSchema(WEATHER), execute: () => "rain" });
// A small model may call again and again until the limit cuts a call; each provider has its own word for "one".
const oneCall = {
  openai: { parallelToolCalls: false },
  sampan: { parallel_tool_calls: false },
  anthropic: { disableParallelToolUse: true },
};

async function turns(model) {
  const request = { model, maxRetries: 0, maxOutputTokens: 100, providerOptions: oneCall };
  check((await generateText({ ...request, prompt: QUESTION })).text, "no text");
  let streamed = "";
  for await (const part of streamText({ ...request, prompt: QUESTION }).fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") streamed += part.text;
  }
  check(streamed, "no text");
  const asked = { role: "user", content: QUESTION };
  const called = await generateText({
    ...request,
    messages: [asked],
    tools: { weather },
    // Only the first step must call.
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "auto" : "required" }),
    stopWhen: stepCountIs(2),
  });
  check(called.steps[0].toolCalls.length, called.steps);
  const messages = [asked, ...called.response.messages, { role: "user", content: "And of Italy?" }];
  await generateText({ ...request, messages, tools: { weather } });
  const schema = jsonSchema({ ...WEATHER, additionalProperties: false });
  const typed = await generateText({ ...request, prompt: QUESTION, output: Output.object({ schema }) });
  check(typed.output.city, typed);
}

const openai_responses = () => turns(createOpenAI(settings).responses(MODEL));
const openai_chat = () => turns(createOpenAI(settings).chat(MODEL));
const openai_compatible = () =>
  turns(createOpenAICompatible({ ...settings, name: "sampan", supportsStructuredOutputs: true })(MODEL));
const anthropic = () => turns(createAnthropic(settings)(MODEL));

await drive("ai", openai_responses, openai_chat, openai_compatible, anthropic);
