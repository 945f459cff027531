// Pictures that the reader chose: what is sent (the file as it is), what is shown, and views of it as the model was given them.

import { Failure } from "./stream.js";

const BY_ENDING = { heic: "image/heic", heif: "image/heif", avif: "image/avif", tif: "image/tiff", tiff: "image/tiff", jxl: "image/jxl" };

/** { name, type, bytes, url, image }: `url` holds the file byte for byte; `image` is null where the browser cannot show it. */
export async function readPicture(file) {
  const ending = file.name.split(".").pop().toLowerCase();
  const type = file.type || BY_ENDING[ending] || "";
  if (!type.startsWith("image/")) throw new Failure(`${file.name} is not an image. Choose a PNG, JPEG or WebP file.`);
  if (!file.size) throw new Failure(`${file.name} is empty. Choose another file.`);
  const image = new Image();
  image.src = URL.createObjectURL(file);
  const shown = await image.decode().then(() => true, () => false);
  // the address is never revoked: results go on showing a picture that was removed from the question
  return { name: file.name, type, bytes: file.size, url: await dataUrl(file, type), image: shown ? image : null };
}

/** "112 × 112 px, 11 kB" */
export function measures(picture) {
  const size = picture.bytes < 1e6 ? `${Math.max(1, Math.round(picture.bytes / 1e3))}\u00a0kB` : `${(picture.bytes / 1e6).toFixed(1)}\u00a0MB`;
  return picture.image ? `${pixels(picture.image.naturalWidth, picture.image.naturalHeight)}, ${size}` : size;
}

/** "112 × 112 px", on one line */
export function pixels(width, height) {
  return `${width}\u00a0×\u00a0${height}\u00a0px`;
}

function dataUrl(file, type) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.replace(/^data:[^,]*,/, `data:${type};base64,`));
    reader.onerror = () => reject(new Failure(`${file.name} cannot be read. Choose it again.`));
    reader.readAsDataURL(file);
  });
}

/** A view of the picture in as many pixels as the model was given. */
export function viewCanvas(picture, view) {
  const [left, top, right, bottom] = view.box;
  const canvas = document.createElement("canvas");
  canvas.width = view.width;
  canvas.height = view.height;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture.image, left, top, right - left, bottom - top, 0, 0, view.width, view.height);
  canvas.setAttribute("role", "img");
  return canvas;
}

/** The picture with boxes drawn on it, which are in pixels of the upright original. */
export function boxedPicture(picture, boxes, description) {
  const { naturalWidth: width, naturalHeight: height } = picture.image;
  const frame = document.createElement("span");
  frame.className = "boxed";
  frame.append(shownPicture(picture, description));
  boxes.forEach(([left, top, right, bottom], index) => {
    const box = document.createElement("span");
    box.className = "box";
    box.style.left = `${(100 * left) / width}%`;
    box.style.top = `${(100 * top) / height}%`;
    box.style.width = `${(100 * (right - left)) / width}%`;
    box.style.height = `${(100 * (bottom - top)) / height}%`;
    if (boxes.length > 1) {
      const number = document.createElement("span");
      number.textContent = index + 1;
      if (top < 0.12 * height) number.className = "within"; // above the box there is no room
      box.append(number);
    }
    frame.append(box);
  });
  return frame;
}

export function shownPicture(picture, description) {
  const image = document.createElement("img");
  image.src = picture.image.src;
  image.alt = description;
  return image;
}
