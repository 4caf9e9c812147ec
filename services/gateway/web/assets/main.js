// The studio's composition root: every part is made here and handed what it needs.
import { Account } from "./account.js";
import { Announcer } from "./announce.js";
import { Api, ApiError } from "./api.js";
import { Composer } from "./composer.js";
import { HistoryCard, HistoryStrip } from "./history.js";
import { KeyPanel, KeyStore } from "./keys.js";
import { Queue, StatusLine } from "./line.js";
import { LinkBar } from "./linkbar.js";
import { LiveFeed } from "./live.js";
import { Picture } from "./picture.js";
import { refusal } from "./refusals.js";
import { Requests } from "./requests.js";
import { SharedFeed } from "./shared.js";
import { Source } from "./source.js";
import { Stage } from "./stage.js";
import { Studio } from "./studio.js";

customElements.define("hg-status", StatusLine);
customElements.define("hg-queue", Queue);
customElements.define("hg-picture", Picture);
customElements.define("hg-source", Source);
customElements.define("hg-card", HistoryCard);

const find = (selector) => document.querySelector(selector);
const now = () => Date.now();
const timers = { set: (fn, ms) => setTimeout(fn, ms), clear: (handle) => clearTimeout(handle) };

const keys = new KeyStore({ tab: sessionStorage, kept: localStorage });
const api = new Api({ key: () => keys.get(), onAnswer: (headers) => studio.answered(headers) });
const requests = new Requests({ now });
const announcer = new Announcer({ speak: (text) => (find("#live").textContent = text), now, timers });
const linkBar = new LinkBar({ bar: find("#offline"), onRetry: () => studio.retryNow(), timers, now });
const live = new LiveFeed({
  openSocket: () => new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`),
  poll: (id, options) => api.diagram(id, options),
  key: () => keys.get(),
  timers,
  random: Math.random,
  onEvent: (id, message) => studio.heard(id, message),
  onLink: (link) => studio.linkChanged(link),
});
const sharedFeed = new SharedFeed({ openSource: (address) => new EventSource(address), onEvent: (id, message) => studio.heard(id, message), timers });
const stage = new Stage({
  root: find("#stage"),
  api,
  timers,
  acts: {
    cancel: (id) => studio.cancel(id),
    again: (track) => studio.send({ prompt: track.prompt, diagramType: track.diagramType }),
    retry: () => studio.retry(),
    dismiss: () => studio.dismiss(),
    askKey: () => studio.askKeyAndRetry(),
    reuse: (track) => studio.reuse(track),
    redraw: () => studio.draw(),
    tell: (text) => studio.tell(text),
  },
});
const composer = new Composer({ form: find("#compose"), storage: sessionStorage, onSend: (request) => studio.send(request) });
const panel = new KeyPanel({ dialog: find("#key-panel"), store: keys, demoKeys: () => api.demoKeys(), onChange: (key) => studio.keyChanged(key) });
const account = new Account({ usage: find("#usage"), keyLabel: find("#key-label"), now });
const strip = new HistoryStrip({ list: find("#history-list"), note: find("#history-note"), more: find("#history-more") });

const studio = new Studio({ account, announcer, api, ApiError, composer, find, keys, linkBar, live, now, panel, refusal, requests, sharedFeed, stage, strip, timers });
studio.start();
