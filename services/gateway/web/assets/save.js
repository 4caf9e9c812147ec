// Files for the person to keep.
import { h } from "./dom.js";

const NAME_LETTERS = 48;
// Long enough for every browser to have begun the download.
const RELEASE_MS = 10_000;

/** The prompt's first words as a file name; letters of every script stay. */
export function stem(prompt) {
  const words = prompt
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "");
  return [...words].slice(0, NAME_LETTERS).join("").replace(/-+$/, "") || "diagram";
}

export const pictureName = (track, ending) => `${stem(track.prompt)}.${ending}`;
export const sourceName = (track) => `${stem(track.prompt)}.mmd`;

export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();

  setTimeout(() => URL.revokeObjectURL(address), RELEASE_MS);
}

export const saveText = (text, name, type) => save(new Blob([text], { type: `${type};charset=utf-8` }), name);
