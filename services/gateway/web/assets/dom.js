// Building elements without markup strings: nothing that came from outside is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are attributes, `on…` listeners, and `class`; children are nodes or text, empty ones left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** A line drawing on a 24 × 24 grid from its path data; decoration only, so hidden from screen readers. */
export function drawing(paths, name = "icon") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", name);
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS(SVG, "path");
    // A leading "*" marks a filled shape.
    path.setAttribute("d", d.replace(/^\*/, ""));
    if (d.startsWith("*")) path.setAttribute("class", "solid");
    svg.append(path);
  }
  return svg;
}

/** Sets text only if it changed, so that selections and screen readers are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replaces an element's children only if `signature` changed. */
export function redraw(element, signature, build) {
  if (element.dataset.drawn === signature) return;
  element.dataset.drawn = signature;
  element.replaceChildren(...[build()].flat().filter(Boolean));
}
