// The picture: an <img> (where no script can run) that fits, zooms and pans inside its frame.
import { h } from "./dom.js";
import { sized } from "./svg.js";

const MOST = 8;
const LEAST = 0.05;
// Fit enlarges small diagrams only so far: a box of three words should not fill a wall.
const FIT_MOST = 1.75;
const MARGIN = 28;
// The zoom buttons' height: a fitted picture stays clear of them.
const FOOT = 40;
const STEP = 1.25;
const PAN_PX = 48;
// Browsers refuse canvases much larger than this on a side.
const PNG_SIDE_PX = 8_192;
const PNG_SCALE = 2;

/** A PNG of sized SVG text on white. Rejects where the browser does not allow it. */
export async function png({ text, width, height }) {
  const scale = Math.min(PNG_SCALE, PNG_SIDE_PX / Math.max(width, height));
  const image = new Image();
  // A data address: Chromium counts a blob's foreignObject as foreign and would not give the pixels back.
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = h("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no PNG"))), "image/png"));
}

export class Picture extends HTMLElement {
  connectedCallback() {
    if (this.image) return;
    this.image = h("img", { alt: "", draggable: "false" });
    this.paper = h("div", { class: "paper" }, this.image);
    this.append(this.paper);
    this.view = { scale: 1, x: 0, y: 0, fitted: true };
    this.pointers = new Map();
    this.tabIndex = 0;
    this.setAttribute("role", "group");
    this.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.addEventListener("keydown", (event) => this.#keydown(event));
    this.addEventListener("pointerdown", (event) => this.#pointerdown(event));
    this.addEventListener("pointermove", (event) => this.#pointermove(event));
    for (const type of ["pointerup", "pointercancel"]) this.addEventListener(type, (event) => this.#pointerup(event));
    new ResizeObserver(() => this.view.fitted && this.fit()).observe(this);
  }

  /** Shows SVG text under a name for those who cannot see it; resolves once it is painted. */
  async show(svgText, name) {
    const picture = sized(svgText);
    const address = URL.createObjectURL(new Blob([picture.text], { type: "image/svg+xml" }));
    this.image.src = address;
    this.image.alt = name;
    this.setAttribute("aria-label", `Picture: ${name}. Plus and minus zoom, arrows move, 0 fits.`);
    await this.image.decode();
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = address;
    this.picture = picture;
    this.fit();
    return picture;
  }

  clear() {
    this.picture = null;
    this.image?.removeAttribute("src");
  }

  fit() {
    if (!this.picture || !this.clientWidth) return;
    const { width, height } = this.picture;
    const scale = Math.min(FIT_MOST, (this.clientWidth - 2 * MARGIN) / width, (this.clientHeight - 2 * MARGIN - FOOT) / height);
    this.#place({ scale: Math.max(LEAST, scale), x: 0, y: -FOOT / 2, fitted: true });
  }

  /** Zooms by a factor about a point of the frame (its middle if left out). */
  zoom(factor, at = { x: this.clientWidth / 2, y: this.clientHeight / 2 }) {
    const { scale, x, y } = this.view;
    const next = Math.min(MOST, Math.max(LEAST, scale * factor));
    // The point under the pointer stays where it is; x and y are offsets from the middle.
    const dx = at.x - this.clientWidth / 2;
    const dy = at.y - this.clientHeight / 2;
    const grown = next / scale;
    this.#place({ scale: next, x: dx - (dx - x) * grown, y: dy - (dy - y) * grown, fitted: false });
  }

  pan(dx, dy) {
    this.#place({ ...this.view, x: this.view.x + dx, y: this.view.y + dy, fitted: false });
  }

  #place(view) {
    if (!this.picture) return;
    const width = this.picture.width * view.scale;
    const height = this.picture.height * view.scale;
    // A corner of the picture always stays in sight.
    const mostX = (this.clientWidth + width) / 2 - 2 * MARGIN;
    const mostY = (this.clientHeight + height) / 2 - 2 * MARGIN;
    view.x = Math.min(mostX, Math.max(-mostX, view.x));
    view.y = Math.min(mostY, Math.max(-mostY, view.y));
    this.view = view;
    // Sizes, not a scale transform: the browser then draws the vectors sharply at every zoom.
    this.paper.style.width = `${width}px`;
    this.paper.style.height = `${height}px`;
    this.paper.style.transform = `translate(${(this.clientWidth - width) / 2 + view.x}px, ${(this.clientHeight - height) / 2 + view.y}px)`;
    this.classList.toggle("zoomed", !view.fitted);
    this.dispatchEvent(new CustomEvent("view", { detail: { scale: view.scale } }));
  }

  #wheel(event) {
    event.preventDefault();
    const frame = this.getBoundingClientRect();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoom(Math.exp(-event.deltaY * lines * 0.0015), { x: event.clientX - frame.left, y: event.clientY - frame.top });
  }

  #keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      "+": () => this.zoom(STEP),
      "=": () => this.zoom(STEP),
      "-": () => this.zoom(1 / STEP),
      0: () => this.fit(),
      ArrowLeft: () => this.pan(PAN_PX, 0),
      ArrowRight: () => this.pan(-PAN_PX, 0),
      ArrowUp: () => this.pan(0, PAN_PX),
      ArrowDown: () => this.pan(0, -PAN_PX),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  #pointerdown(event) {
    if (event.button !== 0) return;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.setPointerCapture(event.pointerId);
    this.classList.add("held");
  }

  #pointermove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const next = { x: event.clientX, y: event.clientY };
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const frame = this.getBoundingClientRect();
      const middle = { x: (next.x + other.x) / 2 - frame.left, y: (next.y + other.y) / 2 - frame.top };
      this.zoom(distance(next, other) / Math.max(1, distance(last, other)), middle);
    } else {
      this.pan(next.x - last.x, next.y - last.y);
    }
    this.pointers.set(event.pointerId, next);
  }

  #pointerup(event) {
    this.pointers.delete(event.pointerId);
    if (this.pointers.size === 0) this.classList.remove("held");
  }
}

const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
