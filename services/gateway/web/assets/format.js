// Numbers, durations and times as people read them. Pure: same input, same words.

const COUNT = new Intl.NumberFormat("en");
const SUFFIX = { one: "st", two: "nd", few: "rd", other: "th" };
const ORDINAL = new Intl.PluralRules("en", { type: "ordinal" });
const SMALL = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

/** 1204 -> "1,204". */
export const count = (n) => COUNT.format(n);

/** 3 -> "3rd", 1012 -> "1,012th". */
export const ordinal = (n) => COUNT.format(n) + SUFFIX[ORDINAL.select(n)];

/** Numbers up to twelve in words, larger ones in digits. */
export const inWords = (n) => SMALL[n] ?? COUNT.format(n);

/** Milliseconds in the largest two units, rounded up to whole seconds: "4 min 10 s", "2 h 5 min", "12 s". */
export function duration(ms) {
  let rest = Math.max(1, Math.ceil(ms / 1000));
  const first = UNITS.findIndex(([, size]) => rest >= size);
  // The smallest unit shown is rounded up: a wait that is told too short makes people angry.
  const smallest = UNITS[Math.min(first + 1, UNITS.length - 1)][1];
  rest = Math.ceil(rest / smallest) * smallest;
  const parts = [];
  for (const [name, size] of UNITS) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole && parts.length < 2) parts.push(`${whole} ${name}`);
    else if (parts.length) break;
  }
  return parts.join(" ");
}

/** How long something took: tenths below ten seconds, else to the nearest second as `duration`. */
export const elapsed = (ms) => (ms < 9_950 ? `${(Math.max(ms, 0) / 1000).toFixed(1)} s` : duration(Math.round(ms / 1000) * 1000));

/** The local time of day, "02:00". `timeZone` is for tests; absent means the reader's own. */
export function clock(iso, timeZone) {
  const form = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone });
  return form.format(new Date(iso));
}

/** The UTC time in full, for a `title`. */
export const utc = (iso) => `${new Date(iso).toISOString().replace("T", " ").slice(0, 19)} UTC`;

/** When something was, seen from now: "just now", "4 min ago", "14:03", "3 Nov". */
export function when(iso, nowMs, timeZone) {
  const ms = nowMs - Date.parse(iso);
  if (!(ms >= 0)) return clock(iso, timeZone);
  if (ms < 60_000) return "just now";
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ago`;
  if (ms < 64_800_000) return clock(iso, timeZone);
  return new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone }).format(new Date(iso));
}
