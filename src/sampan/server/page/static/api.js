// The service's public API: JSON, and chat completions as they are streamed.

/** An answer that is an error. `status`: 0 where the service could not be reached. */
export class Failure extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const storages = () => [sessionStorage, localStorage];

export function apiKey() {
  return storages().map((storage) => storage.getItem("sampan.key")).find(Boolean) ?? "";
}

export const keyIsRemembered = () => Boolean(localStorage.getItem("sampan.key"));

/** Keeps the key until the window closes, or in this browser. */
export function setApiKey(value, remember) {
  for (const storage of storages()) storage.removeItem("sampan.key");
  if (value) storages()[remember ? 1 : 0].setItem("sampan.key", value);
}

/** The JSON at a path. Throws `Failure`. */
export async function getJson(path) {
  return (await asked(path, {})).json();
}

/** The JSON that answers a JSON body. Throws `Failure`. */
export async function postJson(path, body) {
  return (await asked(path, posted(body))).json();
}

/** Yields {content, reasoning, finish, usage}, each where it is there. Throws `Failure`; AbortError when stopped. */
export async function* chat(body, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await asked("/v1/chat/completions", { ...posted(whole), signal });
  let done = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const event = JSON.parse(data);
    if (event.error) throw new Failure(event.error.status ?? 500, event.error.message ?? "The service failed.");
    const choice = event.choices?.[0];
    yield {
      content: choice?.delta?.content || "",
      reasoning: choice?.delta?.reasoning_content || "",
      finish: choice?.finish_reason ?? null,
      usage: event.usage ?? null,
    };
  }
  if (!done) throw new Failure(0, "The connection broke off before the answer ended.");
}

const posted = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

async function asked(path, options) {
  const key = apiKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "The service cannot be reached.");
  }
  if (!response.ok) throw await failed(response);
  return response;
}

async function failed(response) {
  let message = `The service answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not the service's own error: the status has to do.
  }
  const seconds = Number(response.headers.get("Retry-After"));
  return new Failure(response.status, message, seconds > 0 ? seconds : null);
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const frames = (rest + value).split(/\r?\n\r?\n/);
      rest = frames.pop();
      for (const frame of frames) {
        const lines = frame.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
