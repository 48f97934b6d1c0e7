// One purchase: its request, its place in line, its verdict, and what becomes of the order; each as the engine said it.

import { ask, badge, count, fill, h, listen, plural, say, set, span, spaced } from "./page.js";

const WAIT_SECONDS = 1;
/** How long an answer is waited for that is not to be shown as a place in line. */
const ACT_SECONDS = 30;
const ASK_AGAIN_MS = 1000;
const ATTEMPTS_MAX = 8;
/** Too slow, too early, too many. */
const TRY_AGAIN = [408, 425, 429];
const LOG_MAX = 100;
/** How often those who listen are told the place in line. */
const SAY_MS = 10_000;
const STATES = {
  sending: ["Sending", "now"], waiting: ["In line", "now"], reserved: ["Held for you", "warn"], paying: ["Paying", "now"], leaving: ["Letting go", "now"],
  paid: ["Paid", "good"], cancelled: ["Let go", ""], expired: ["Expired", "bad"], sold_out: ["Sold out", "bad"],
  refused: ["Refused", "bad"], invalid: ["Invalid", "bad"], lost: ["Unknown", "bad"],
};
/** The states of an order that the engine tells, each by an event of its name; the first is told by the verdict. */
const EVENTS = ["paying", "reserved", "paid", "expired", "cancelled"];
const HELD = ["reserved", "paying", "leaving"];
const OPEN = ["sending", "waiting", ...HELD];

/** A UUID of version 7: ids that begin alike when they are made together cost the database less. */
export const newId = () => {
  const random = [...crypto.getRandomValues(new Uint8Array(10))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const time = Date.now().toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${random.slice(0, 3)}-b${random.slice(3, 6)}-${random.slice(6, 18)}`;
};

const oneLine = (data) => JSON.stringify(data, null, 1).replace(/\n\s*/g, " ");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** How far the server's clock is ahead of ours: a hold ends by theirs. */
let aheadMs = 0;
const noteClock = (date) => {
  const ahead = Date.parse(date) + 500 - Date.now();
  aheadMs = Math.abs(ahead) > 2_000 ? ahead : 0;
};

export class Purchase {
  #state = "sending";
  #verdict = null;
  #stop = null;
  #timer = 0;
  #saidAt = 0;
  #logged = 0;
  #acts = 0;

  constructor(request) {
    this.request = request;
    const part = (tag, name, attributes = {}, ...children) => h(tag, { "data-part": name, ...attributes }, ...children);
    const button = (name, text, click, tone) => part("button", name, { type: "button", class: tone, click }, text);
    const what = `${count(request.quantity)} × ${request.item}`;
    this.element = h("li", { class: "card" },
      h("div", { class: "row" }, h("h3", {}, what), part("span", "state", { class: "badge" })),
      part("p", "place", { class: "place", hidden: true }, part("strong", "ahead"), " ", part("span", "wait", { class: "dim" })),
      part("div", "timer", { class: "timer", role: "timer", hidden: true },
        h("p", {}, part("strong", "rest"), " ", h("span", { class: "dim" }, "to pay")),
        h("div", { class: "track" }, part("i", "track"))),
      part("p", "said", { class: "said" }),
      part("div", "acts", { class: "acts", hidden: true },
        button("pay", "Pay", () => this.#pay(), "main"), button("letGo", "Let go", () => this.#letGo(), "")),
      h("details", {}, h("summary", {}, "What the engine said at each step ", part("span", "logged")),
        part("ol", "log", { class: "log" })));
    this.#become("sending", "");
  }

  get isOpen() {
    return OPEN.includes(this.#state);
  }

  #part(name) {
    return this.element.querySelector(`[data-part="${name}"]`);
  }

  /** Where it is looked for: at another door, too, which knows nothing of it yet. */
  #url(path = "") {
    return `/purchases/${this.request.id}${path}?item=${encodeURIComponent(this.request.item)}`;
  }

  /** Sends it, again and again with the same id, which is granted once. */
  async send() {
    const { id, item, ...wanted } = this.request;
    const [url, headers] = [`/items/${encodeURIComponent(item)}/purchases`, { "idempotency-key": id, prefer: `wait=${WAIT_SECONDS}` }];
    this.#log("request", `POST ${url}\nIdempotency-Key: ${id}\n${oneLine(wanted)}`);
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const { status, answer, problem, date, retryAfter } = await ask("POST", url, { headers, body: wanted }).catch((error) => ({ problem: error.message }));
      if (date) noteClock(date);
      if (problem) this.#log("problem", answer ?? problem);
      // Who the buyer is, a proxy says: then nobody else does.
      if (answer?.code === "another_buyer" && wanted.buyer) {
        delete wanted.buyer;
        continue;
      }
      if (!problem && status === 202) return this.#wait(answer);
      if (!problem) return this.#decided(answer);
      // Of anything else, nobody knows whether the shop has it.
      if (status && status < 500 && !TRY_AGAIN.includes(status)) return this.#become("invalid", problem);
      this.#become("sending", `${problem} Sending it again, with the same id.`);
      await pause(1_000 * (Number(retryAfter) || attempt));
    }
    this.#become("lost", "The shop did not answer. Look at this page again later: the id is kept.");
  }

  /** Goes on where another visit to this page ended. */
  async follow() {
    for (let attempt = 1; ; attempt += 1) {
      const { status, answer, problem, date } = await ask("GET", this.#url()).catch((error) => ({ problem: error.message }));
      if (date) noteClock(date);
      if (status === 202) return this.#wait(answer);
      if (!problem) return this.#decided(answer);
      if (status === 404 || attempt === ATTEMPTS_MAX) return this.#become("lost", status === 404 ? "The shop knows nothing of it." : problem);
      await pause(1_000 * attempt);
    }
  }

  #wait(position) {
    this.#position(position);
    this.#listen();
  }

  #listen() {
    if (this.#stop) return;
    const heard = EVENTS.map((state) => [state, (order) => this.#happened(state, order)]);
    this.#stop = listen(this.#url("/events"), {
      position: (position) => this.#position(position),
      verdict: (verdict) => this.#decided(verdict),
      ...Object.fromEntries(heard),
    });
  }

  #position(position) {
    if (!["sending", "waiting"].includes(this.#state)) return;
    this.#log("position", position);
    this.#become("waiting", "");
    const { ahead, wait_ms: wait, known } = position;
    const place = ahead > 0 ? `${known ? "" : "At least "}${count(ahead)} ahead of you` : known ? "You are next" : "Waiting";
    const time = !known ? "how many more is not known yet" : wait !== null && ahead > 0 ? `about ${span(wait)}` : "";
    fill(this.element, { ahead: place, wait: time });
    if (Date.now() - this.#saidAt < SAY_MS) return;
    this.#saidAt = Date.now();
    say(`${this.request.item}: ${place}. ${time}`);
  }

  #decided(verdict) {
    if (this.#verdict) {
      // A stream begins anew: its order is reserved, as the verdict says, where no event says otherwise.
      if (this.#state === "paying" && this.#acts === 0) this.#become("reserved", "");
      return;
    }
    this.#verdict = verdict;
    this.#log("verdict", verdict);
    this.#become(verdict.status, verdict.message);
    say(`${this.request.item}: ${verdict.message}`);
    if (verdict.status !== "reserved") return;
    this.#listen();
    this.#timer = setInterval(() => this.#countDown(), 200);
    this.#countDown();
  }

  #happened(state, order) {
    this.#log(state, order);
    if (state === this.#state) return;
    const said = {
      reserved: "It was not paid for. What is left of the hold is yours.", paid: "Paid: it is yours.",
      expired: "The time to pay is over; the units are on sale again.", cancelled: "Let go; the units are on sale again.",
    }[state] ?? "";
    this.#become(state, said);
    say(`${this.request.item}: ${said}`);
  }

  #become(state, said) {
    this.#state = state;
    badge(this.#part("state"), STATES[state]);
    if (said || state === "waiting") set(this.#part("said"), said);
    this.#part("place").hidden = state !== "waiting";
    this.#part("timer").hidden = this.#part("acts").hidden = !HELD.includes(state);
    this.element.querySelectorAll("[data-part=acts] button").forEach((button) => { button.disabled = state !== "reserved"; });
    if (this.isOpen) return;
    clearInterval(this.#timer);
    this.#stop?.();
    this.#stop = null;
  }

  #countDown() {
    const until = Date.parse(this.#verdict.order.hold_until);
    const rest = Math.max(0, until - Date.now() - aheadMs);
    const whole = until - Date.parse(this.#verdict.decided_at);
    const seconds = Math.ceil(rest / 1_000);
    set(this.#part("rest"), `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    this.#part("timer").classList.toggle("soon", seconds <= 10);
    this.#part("track").style.width = `${(rest * 100) / whole}%`;
    if (rest === 0) set(this.#part("said"), "The time is over. The engine takes the units back now.");
  }

  #pay() {
    this.#act("paying", "POST", "/payment", { payment_method: "card" });
  }

  #letGo() {
    this.#act("leaving", "DELETE", "");
  }

  /** Asks for the order's next step, until there is a verdict. Its events say the same where it comes to a new state. */
  async #act(meanwhile, method, path, body) {
    const [url, id] = [`/orders/${this.#verdict.order.id}${path}`, newId()];
    this.#log("request", `${method} ${url}\nIdempotency-Key: ${id}\n${body ? oneLine(body) : ""}`);
    this.#acts += 1;
    this.#become(meanwhile, "");
    const send = (...request) => ask(...request).catch((error) => ({ problem: error.message }));
    let { status, answer, problem, location } = await send(method, url, { headers: { "idempotency-key": id }, body });
    while (status === 202 && this.#state === meanwhile) {
      this.#log("accepted", answer);
      await new Promise((asked) => setTimeout(asked, ASK_AGAIN_MS));
      ({ status, answer, problem, location = location } = await send("GET", location, { headers: { prefer: `wait=${ACT_SECONDS}` } }));
    }
    this.#acts -= 1;
    this.#log(problem ? "problem" : status === 202 ? "accepted" : "verdict", answer ?? problem);
    if (this.#state !== meanwhile) return;
    const states = { paid: "paid", already_paid: "paid", cancelled: "cancelled", already_cancelled: "cancelled", already_expired: "expired" };
    const state = states[answer?.code] ?? "reserved";
    this.#become(state, problem ?? answer.message);
    say(`${this.request.item}: ${problem ?? answer.message}`);
  }

  /** Positions that follow each other are one entry: the last. */
  #log(kind, data) {
    const log = this.#part("log");
    const isSent = kind === "request";
    if (kind === "position" && log.lastElementChild?.dataset.kind === kind) log.lastElementChild.remove();
    if (log.children.length >= LOG_MAX) log.firstElementChild.remove();
    log.append(h("li", { "data-kind": kind },
      h("div", { class: "row" }, h("span", { class: `badge ${isSent ? "now" : ""}` }, isSent ? "→ " : "← ", spaced(kind)),
        h("time", {}, new Date().toISOString().slice(11, 23))),
      h("pre", {}, typeof data === "string" ? data : oneLine(data))));
    this.#logged += 1;
    set(this.#part("logged"), `(${plural(this.#logged, "message")})`);
  }
}
