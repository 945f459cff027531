// Draws what happens while an answer is made: views, thoughts, the decision, the answer and its bill.

import { boxedPicture, pixels, shownPicture, viewCanvas } from "./pictures.js";

const $ = (id) => document.getElementById(id);

const DECIDERS = {
  model: "The model decided this itself.",
  gate: "The threshold on the confidence of the answer decided this.",
  skipped: "Two steps would cost more than one here, so the full view is shown at once.",
  fixed: "The chosen mode decided this.",
};

/** Empties what an earlier question left, and says that one is under way. */
export function begin(pictures) {
  $("empty").hidden = true;
  $("steps").replaceChildren();
  $("answer-box").hidden = $("answer-note").hidden = $("bill").hidden = true;
  $("answer").textContent = "";
  $("answer").setAttribute("aria-busy", "true");
  return new Run(pictures);
}

/** One question's results; its methods are called as the events come. */
class Run {
  constructor(pictures) {
    this.pictures = pictures;
    this.answer = "";
    this.thinking = null;
  }

  looked({ turn, views }) {
    const full = views.every((view) => view.level >= 1);
    const tokens = views.reduce((sum, view) => sum + view.visual_tokens, 0);
    const title = turn > 0 ? "A closer look" : full ? "The full view" : "First, the low view";
    const item = this.step(title, turn > 0 ? "closer" : "view");
    item.append(paragraph(`${views.length > 1 ? `${views.length} views` : shareOfPixels(views[0])}, ${count(tokens)}.`, "small"));
    const figures = element("div", "figures");
    for (const index of new Set(views.map((view) => view.image))) {
      const picture = this.pictures[index];
      const own = views.filter((view) => view.image === index);
      if (picture?.image) figures.append(this.where(picture, own, turn));
      own.forEach((view, number) => figures.append(this.given(picture, view, own.length > 1 ? number + 1 : 0)));
    }
    item.append(figures);
    say(turn > 0 ? "The model is shown more." : "The model was given a view of the image.");
  }

  /** The picture as it was chosen; after the opening, with what was looked at drawn on it. */
  where(picture, views, turn) {
    const name = this.pictures.length > 1 ? picture.name : "Your image";
    const boxes = views.map((view) => view.box);
    const places = boxes.map((box) => place(box, picture)).join("; ");
    const shown = turn > 0 ? boxedPicture(picture, boxes, `${name}, looked at: ${places}`) : shownPicture(picture, name);
    sharpIfSmall(shown.tagName === "IMG" ? shown : shown.firstChild, picture);
    return figure(shown, turn > 0 ? `${name}: looked at ${places}` : `${name}, ${pixels(picture.image.naturalWidth, picture.image.naturalHeight)}`);
  }

  given(picture, view, number) {
    const caption = `${number ? `${number}: ` : ""}as the model was given it, ${pixels(view.width, view.height)}, ${count(view.visual_tokens)}`;
    if (!picture?.image) return figure(paragraph("This browser cannot show this format. The model was given the image nevertheless.", "missing"), caption);
    const canvas = viewCanvas(picture, view);
    canvas.setAttribute("aria-label", `View ${caption}`);
    sharpIfSmall(canvas, { image: { naturalWidth: view.width } });
    return figure(canvas, caption);
  }

  thought(text) {
    if (!this.thinking) {
      const item = this.step("Thought", "thinking");
      this.thinking = paragraph("", "thought");
      this.thinking.tabIndex = 0; // a long one scrolls, by keyboard too
      this.thinking.setAttribute("role", "group");
      this.thinking.setAttribute("aria-label", "Thought");
      item.append(this.thinking);
    }
    const { scrollTop, clientHeight, scrollHeight } = this.thinking;
    this.thinking.append(text);
    const readsTheEnd = scrollTop + clientHeight > scrollHeight - 8;
    if (readsTheEnd) this.thinking.scrollTop = this.thinking.scrollHeight;
  }

  decided({ rule, text }) {
    const item = this.step("Decision", "decision");
    item.append(paragraph(text), paragraph(DECIDERS[rule] ?? "", "small"));
    say(text);
  }

  text(text) {
    this.answer += text;
    $("answer-box").hidden = false;
    $("answer").append(text); // added and not set anew, so that a screen reader reads what is new
  }

  /** The end of a run: `note` says why the answer may be incomplete. */
  ended(note = "") {
    $("answer").setAttribute("aria-busy", "false");
    $("answer-note").textContent = note;
    $("answer-note").hidden = !note;
    if (note && !this.answer) this.text("");
    $("empty").hidden = $("steps").children.length > 0 || Boolean(this.answer || note);
  }

  step(title, kind) {
    this.thinking = null;
    const item = element("li", kind);
    item.append(element("h3", "", title));
    $("steps").append(item);
    return item;
  }
}

/** The bill, compared with the full view at once; `full` is a run in mode high, or null while none was measured. */
export function showBill(bill, answer, full, alwaysFull) {
  $("bill").hidden = false;
  const tokensFull = full ? full.bill.image_tokens : bill.image_tokens_full;
  const most = Math.max(bill.image_tokens, tokensFull, 1);
  $("tokens").textContent = bill.image_tokens.toLocaleString("en");
  $("tokens-full").textContent = tokensFull.toLocaleString("en");
  $("tokens-bar").style.width = `${(100 * bill.image_tokens) / most}%`;
  $("tokens-bar").classList.toggle("more", bill.image_tokens > tokensFull);
  $("tokens-full-bar").style.width = `${(100 * tokensFull) / most}%`;
  $("seconds").textContent = seconds(bill.seconds);
  $("seconds-full").textContent = full ? seconds(full.bill.seconds) : alwaysFull ? seconds(bill.seconds) : "not measured";
  $("answer-here").textContent = answer;
  $("answer-full").textContent = full ? full.answer : alwaysFull ? answer : "not asked";
  $("bill-sentence").textContent = verdict(bill, tokensFull, full, alwaysFull);
  $("measure").hidden = $("measure-hint").hidden = alwaysFull || full !== null;
  const counted = bill.measured ? "They were counted when the model read the image" : "They were computed from the size of the image";
  $("counted").textContent = full
    ? `${counted}. Seconds were measured on the server, once for each column.`
    : `${counted}${alwaysFull || !bill.measured ? "" : "; those of the full view were computed from the size of the image"}.`;
}

function verdict(bill, tokensFull, full, alwaysFull) {
  if (alwaysFull) return "The full view was shown at once: there is nothing to compare.";
  const saved = tokensFull - bill.image_tokens;
  const share = tokensFull ? Math.round((100 * Math.abs(saved)) / tokensFull) : 0;
  const looks = bill.looks === 0 ? "without a closer look" : bill.looks === 1 ? "with 1 closer look" : `with ${bill.looks} closer looks`;
  const tokens =
    saved > 0
      ? `${saved.toLocaleString("en")} visual tokens fewer than the full view (${share} % saved), ${looks}`
      : saved < 0
        ? `${(-saved).toLocaleString("en")} visual tokens more than the full view (${share} % more), ${looks}: the low view was read as well`
        : `As many visual tokens as the full view, ${looks}`;
  if (!full) return `${tokens}.`;
  const gap = full.bill.seconds - bill.seconds;
  return `${tokens}; ${seconds(Math.abs(gap))} s ${gap >= 0 ? "faster" : "slower"}.`;
}

/** Told to screen readers. */
export function say(text) {
  $("status").textContent = text;
}

function place([left, top, right, bottom], { image }) {
  if (left <= 0 && top <= 0 && right >= image.naturalWidth && bottom >= image.naturalHeight) return "the whole image";
  return `${pixels(right - left, bottom - top)} at ${left}, ${top}`;
}

function shareOfPixels({ level }) {
  if (level >= 1) return "At full resolution";
  if (level === 0.25) return "A quarter of the pixels";
  return `${Math.round(100 * level)} % of the pixels`;
}

function count(tokens) {
  return tokens === 1 ? "1 visual token" : `${tokens.toLocaleString("en")} visual tokens`;
}

function seconds(value) {
  return value < 1 ? value.toFixed(3) : value.toFixed(value < 10 ? 2 : 1);
}

/** Small pictures are shown pixel by pixel, so that one sees what the model was given. */
function sharpIfSmall(shown, { image }) {
  shown.classList.toggle("pixels", image.naturalWidth < 400);
}

function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
}

function paragraph(text, name = "") {
  return element("p", name, text);
}

function figure(content, caption) {
  const made = element("figure");
  made.append(content, element("figcaption", "", caption));
  return made;
}
