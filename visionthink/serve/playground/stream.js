// Reads streamed chat completions: bytes to events of a stream, events to chunks. Knows nothing about the page.

/** Why there is no answer, or no rest of it: one line for the reader, the HTTP status where there is one. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The data of every complete event of a server-sent stream. Comments and other fields are passed over; half an event at the end is none. */
export async function* eventData(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      // a carriage return at the very end may be the first half of a line's end
      const lines = (rest.endsWith("\r") ? rest.slice(0, -1) : rest).split(/\r\n|\n|\r/);
      rest = lines.pop() + (rest.endsWith("\r") ? "\r" : "");
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line === "data" || line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading closes the connection
  }
}

/** The chunks of one streamed answer, until the server says that it is done. Throws Failure, or AbortError where `signal` stops it. */
export async function* chat(body, { key, signal }) {
  const response = await reach("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify(body),
    signal,
  });
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    throw new Failure("The server did not answer with a stream. A proxy between the server and this page may have changed the answer.");
  }
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parsed(data);
      if (chunk.error) throw new Failure(`${sentence(chunk.error.message ?? "The server failed")} There is no complete answer: ask again.`);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Failure || error.name === "AbortError") throw error;
  }
  throw new Failure("The connection broke before the answer was complete. Ask again.");
}

/** The names of the models that the server offers. */
export async function models(key) {
  const { data } = await (await reach("v1/models", { headers: authorization(key) })).json();
  if (!data?.length) throw new Failure("The server offers no model. Read the server's log.");
  return data.map((model) => model.id);
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function reach(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Check that it still runs (visionthink serve), then ask again.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** What a refused request says, with what to do about it. */
async function refusal(response) {
  const text = await response.text().catch(() => "");
  let said = "";
  try {
    said = JSON.parse(text).error.message;
  } catch {
    // no error object: a proxy's page, say; the status has to do
  }
  const { status } = response;
  const line = sentence(said || `The server answered with status ${status}`);
  return new Failure(`${line} ${remedy(status, response.headers.get("Retry-After"))}`.trim(), status);
}

function remedy(status, wait) {
  if (status === 401) return "Enter your API key below the question and ask again.";
  if (status === 403) return "This key does not allow that: use another one.";
  if (status === 404) return "Choose another model at the top of the page.";
  if (status === 413) return "Choose smaller or fewer images. This page does not shrink them.";
  if (status === 429) return /^\d+$/.test(wait ?? "") ? `Ask again in ${wait} s.` : "Ask again in a moment.";
  if (status >= 500) return "Ask again. If that does not help, read the server's log.";
  return "";
}

function parsed(data) {
  try {
    const chunk = JSON.parse(data);
    if (chunk && typeof chunk === "object") return chunk;
  } catch {
    // falls through: neither is understood
  }
  throw new Failure("The server sent something that this page does not understand. Ask again.");
}

function sentence(text) {
  const line = String(text).trim();
  return /[.!?]$/.test(line) ? line : `${line}.`;
}
