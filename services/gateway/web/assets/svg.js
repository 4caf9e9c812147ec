// SVG as text: its size, written out. Pure.

const attribute = (tag, name) => new RegExp(`\\s${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)')`).exec(tag)?.slice(1).find((value) => value !== undefined);

/** The size in user units that an opening `<svg …>` tag asks for, from its viewBox or its width and height. */
export function sizeOf(tag) {
  const box = (attribute(tag, "viewBox") ?? "").trim().split(/[\s,]+/).map(Number);
  if (box.length === 4 && box[2] > 0 && box[3] > 0) return { width: box[2], height: box[3] };
  const width = parseFloat(attribute(tag, "width"));
  const height = parseFloat(attribute(tag, "height"));
  return width > 0 && height > 0 ? { width, height } : { width: 800, height: 600 };
}

/**
 * SVG text with its size written out, so that <img> and canvas agree on it; throws on what is no SVG.
 * Text, not DOMParser: a parsed document inherits this page's CSP, which would forbid the picture's own styles.
 */
export function sized(text) {
  const tag = /<svg\b(?:"[^"]*"|'[^']*'|[^'">])*>/.exec(text)?.[0];
  if (!tag) throw new Error("The picture is not an SVG.");
  const { width, height } = sizeOf(tag);
  const bare = tag.replace(/\s(?:width|height)\s*=\s*(?:"[^"]*"|'[^']*')/g, "");
  return { text: text.replace(tag, () => bare.replace("<svg", `<svg width="${width}" height="${height}"`)), width, height };
}
