// The page: collects a question, asks it, hands the events to what draws them.

import { measures, readPicture } from "./pictures.js";
import { begin, say, showBill } from "./results.js";
import { snippets } from "./snippets.js";
import { chat, Failure, models } from "./stream.js";

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

const MODES = { auto: "low view first, more if needed", low: "low view only", high: "full view at once" };
const CUT_SHORT = {
  length: "The answer was cut off: it reached the length that the server allows.",
  content_filter: "The answer was cut off by the content filter of the model's server.",
  tool_calls: "The model called a tool instead of answering, and this page offers no tools.",
};

let pictures = [];
let reading = Promise.resolve(); // pictures are added one after another; a question waits for them
let running = null; // the AbortController of the request under way
let last = null; // the question that was answered: { pictures, question, options, bill, answer }

// ---------------------------------------------------------------- the question

function take(work) {
  reading = reading.then(work).catch(fail);
}

async function add(files) {
  const added = [];
  for (const file of files) {
    try {
      added.push(await readPicture(file));
    } catch (error) {
      fail(error, $("files"));
      return;
    }
  }
  if (!added.length) return;
  if ($("error").dataset.about === "files") clearError();
  pictures = [...pictures, ...added];
  drawPictures();
  say(`${added.map((picture) => picture.name).join(", ")} added.`);
}

function drawPictures() {
  $("pictures").replaceChildren(
    ...pictures.map((picture, index) => {
      const item = document.createElement("li");
      if (picture.image) {
        const image = document.createElement("img");
        image.src = picture.image.src;
        image.alt = "";
        image.classList.toggle("pixels", picture.image.naturalWidth < 400);
        item.append(image);
      } else {
        item.append(span("no preview", "missing"));
      }
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "Remove";
      remove.setAttribute("aria-label", `Remove ${picture.name}`);
      remove.onclick = () => removePicture(index);
      item.append(span(picture.name, "name"), span(measures(picture), "small"), remove);
      return item;
    }),
  );
  document.body.dataset.pictures = pictures.length;
  drawSnippets();
}

function removePicture(index) {
  pictures = pictures.filter((_, other) => other !== index);
  drawPictures();
  ($("pictures").querySelectorAll("button")[Math.min(index, pictures.length - 1)] ?? $("files")).focus();
}

function options() {
  const mode = chosen("mode");
  const found = { mode };
  if (mode === "auto" && chosen("rule")) found.rule = chosen("rule");
  if (found.rule === "gate" && $("threshold").value !== "") found.threshold = Number($("threshold").value);
  return found;
}

function drawOptions() {
  const mode = chosen("mode");
  $("rules").disabled = mode !== "auto";
  $("threshold").disabled = mode !== "auto" || chosen("rule") !== "gate";
  const rule = mode === "auto" ? { model: ", the model decides", gate: ", a threshold decides" }[chosen("rule")] : "";
  $("options-chosen").textContent = MODES[mode] + (rule ?? "");
  drawSnippets();
}

function drawSnippets() {
  const { python, curl } = snippets({
    base: new URL(".", document.baseURI).href,
    model: $("model").value,
    question: $("question").value.trim(),
    options: options(),
    pictures,
    key: !$("key-field").hidden,
  });
  $("python").textContent = python;
  $("curl").textContent = curl;
}

// ---------------------------------------------------------------- asking

async function ask() {
  await reading;
  if (running) return;
  const question = $("question").value.trim();
  clearError();
  if (!pictures.length) return fail(new Failure("Choose an image first: with the button, by dropping it there, or by pasting it."), $("files"));
  if (!question) return fail(new Failure("Write a question first."), $("question"));
  if (!$("threshold").validity.valid) {
    $("options").open = true;
    return fail(new Failure("The threshold has to be a number from 0 to 1."), $("threshold"));
  }
  last = null;
  const asked = { pictures, question, options: options() };
  await request("Asking…", async (signal) => {
    const run = begin(asked.pictures);
    showResults();
    try {
      const { finish, bill } = await answered(asked, run, signal);
      run.ended(CUT_SHORT[finish] ?? (run.answer ? "" : "The model ended without an answer."));
      if (bill) {
        last = { ...asked, bill, answer: run.answer };
        showBill(bill, run.answer, null, asked.options.mode === "high");
      }
      if (!run.answer) say("The model ended without an answer.");
    } catch (error) {
      run.ended(error.name === "AbortError" ? "Stopped. What arrived before that is shown." : run.answer ? "This answer is not complete." : "");
      throw error;
    }
  });
}

async function measure() {
  const asked = last;
  await request("Measuring the full view at once…", async (signal) => {
    const silent = { answer: "", looked() {}, thought() {}, decided() {}, text: (text) => (silent.answer += text) };
    const { bill } = await answered({ ...asked, options: { mode: "high" } }, silent, signal);
    if (!bill) throw new Failure("The server did not say what the answer cost, so nothing was measured.");
    showBill(asked.bill, asked.answer, { bill, answer: silent.answer }, false);
    $("results").focus({ preventScroll: true }); // the button that was pressed is gone
    $("bill").scrollIntoView({ block: "nearest" });
    say($("bill-sentence").textContent);
  });
}

/** Runs a request with the Stop button, the clock and the error line around it. */
async function request(label, work) {
  clearError();
  running = new AbortController();
  const started = performance.now();
  const tick = () => ($("clock").textContent = `${label} ${((performance.now() - started) / 1000).toFixed(1)} s`);
  const ticking = setInterval(tick, 100);
  tick();
  say(label);
  busy(true);
  try {
    if ($("model").disabled) await findModels();
    await work(running.signal);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else fail(error);
  } finally {
    clearInterval(ticking);
    $("clock").textContent = "";
    running = null;
    busy(false);
  }
}

/** Streams one answer into `run`; what the last chunks say about how it ended and what it cost. */
async function answered({ pictures: sent, question, options: wanted }, run, signal) {
  const content = sent.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  const body = {
    model: $("model").value,
    messages: [{ role: "user", content: [...content, { type: "text", text: question }] }],
    stream: true,
    stream_options: { include_usage: true },
    visionthink: { events: true, ...wanted },
  };
  let finish = null;
  let bill = null;
  for await (const chunk of chat(body, { key: $("key").value, signal })) {
    const extra = chunk.visionthink ?? chunk.usage?.visionthink;
    if (extra?.type === "looked") run.looked(extra);
    else if (extra?.type === "decided") run.decided(extra);
    else if (extra && "image_tokens" in extra) bill = extra;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.reasoning_content) run.thought(choice.delta.reasoning_content);
    if (choice?.delta?.content) run.text(choice.delta.content);
    finish = choice?.finish_reason ?? finish;
  }
  if (!finish) throw new Failure("The stream ended before the answer was complete. Ask again.");
  return { finish, bill };
}

/** Swaps Ask and Stop; the focus goes along where it was on the one that goes. */
function busy(is) {
  const [from, to] = is ? [$("ask"), $("stop")] : [$("stop"), $("ask")];
  const focused = document.activeElement === from || (is && document.activeElement === $("measure"));
  to.hidden = false;
  if (focused) to.focus({ preventScroll: true });
  from.hidden = true;
  $("measure").disabled = is;
  document.body.dataset.state = is ? "running" : "idle";
}

/** On a narrow screen the results are below the form: go there. */
function showResults() {
  const { top } = $("results").getBoundingClientRect();
  if (top > innerHeight * 0.4) $("results").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function clearError() {
  $("error").hidden = true;
  $("error").textContent = "";
}

function fail(error, where = null) {
  const known = error instanceof Failure;
  if (!known) console.error(error);
  $("error").textContent = known ? error.message : `This page failed: ${error.message}. Load it again.`;
  $("error").hidden = false;
  say("");
  if (known && error.status === 401) {
    $("key-field").hidden = false;
    where = $("key");
    drawSnippets();
  }
  $("error").dataset.about = where?.id ?? "";
  if (where) where.focus();
  $("error").scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------- what the server offers

async function findModels() {
  const names = await models($("key").value);
  $("model").replaceChildren(...names.map((name) => new Option(name)));
  $("model").disabled = false;
  drawSnippets();
}

async function findExamples() {
  const response = await fetch(new URL("playground/examples.json", document.baseURI));
  const examples = await response.json();
  $("examples").replaceChildren(
    ...examples.map((example) => {
      const button = document.createElement("button");
      button.type = "button";
      const image = document.createElement("img");
      image.src = new URL(example.image, document.baseURI);
      image.alt = "";
      button.append(image, span(example.question), span(example.needs === "full" ? "needs a closer look" : "the low view is enough", "small"));
      button.onclick = () => take(() => takeExample(example));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  $("examples-section").hidden = false;
}

async function takeExample({ image, question }) {
  const blob = await (await fetch(new URL(image, document.baseURI))).blob();
  pictures = [];
  $("question").value = question;
  await add([new File([blob], image.split("/").pop(), { type: "image/png" })]);
  if (!running) $("ask").focus();
}

// ---------------------------------------------------------------- wiring

function span(text, name = "") {
  const made = document.createElement("span");
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
$("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
};
$("stop").onclick = () => running?.abort();
$("measure").onclick = () => !running && measure();
$("files").onchange = () => {
  const files = [...$("files").files];
  take(() => add(files));
  $("files").value = ""; // so that the same file can be chosen again
};
$("form").addEventListener("input", drawOptions);
$("model").onchange = drawSnippets;

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    take(() => add(files));
  }
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  $("drop").classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (!files.length) return;
  event.preventDefault();
  take(() => add(files));
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = !navigator.clipboard; // browsers offer it to secure addresses and this machine's only
  button.onclick = async () => {
    await navigator.clipboard.writeText($(button.dataset.copies).textContent);
    say("Copied.");
  };
}

drawPictures();
drawOptions();
findExamples().catch(() => {}); // the page works without them
findModels().catch(fail);
