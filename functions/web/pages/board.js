// The board: what the engine does at this moment, from one stream, and what an operator may do about it.

import { SALES, ask, badge, bar, byId, count, each, fill, fillBar, h, listen, live, plural, say, set, span, spaced } from "./page.js";
import { chart } from "./chart.js";

const SURE_MS = 4_000;
/** So that two in line do not look like a crowd. */
const FULL_MIN = 100;
const rounded = (number) => count(number < 10 ? Math.round(number * 10) / 10 : Math.round(number));
const part = (tag, name, attributes = {}) => h(tag, { "data-part": name, ...attributes });
const pace = chart("pace", [
  { name: "reserved", tone: "--sold" }, { name: "sold out", tone: "--held" }, { name: "refused or invalid", tone: "--refused" },
], rounded);
const depth = chart("depth", [{ name: "messages in the queue", tone: "--sold" }, { name: "requests under way at this door", tone: "--held" }], rounded);
let samples = [];
let may = { change: false, demo: false };

const draw = () => {
  const column = (name) => samples.map((sample) => sample[name]);
  const times = samples.map(({ at_ms: at }) => at / 1_000);
  pace(times, [column("reserved"), column("sold_out"), column("refused")]);
  depth(times, [column("waiting"), column("under_way")]);
};

/** Does what a button says, and says what came of it, to all, too. */
const act = async (button, url, body) => {
  button.disabled = true;
  const { answer, problem } = await ask("POST", url, { body: body ?? {} }).catch((error) => ({ problem: error.message }));
  button.disabled = false;
  say(problem ?? answer.message);
};
const button = (text, url, body, about) =>
  h("button", { type: "button", class: "slim", "aria-label": `${text} ${about}`, click: (event) => act(event.currentTarget, url, body) }, text);
/** What cannot be undone is asked for twice. */
const sureButton = (text, url, about) => {
  let timer = 0;
  const calm = () => {
    element.classList.remove("sure");
    set(element, text);
  };
  const element = h("button", { type: "button", class: "slim", "aria-label": `${text} ${about}`, click: () => {
    clearTimeout(timer);
    if (element.classList.contains("sure")) return calm(), act(element, url);
    element.classList.add("sure");
    set(element, `${text} for good?`);
    say(`Once more to ${text.toLowerCase()} ${about} for good`);
    timer = setTimeout(calm, SURE_MS);
  } }, text);
  return element;
};

const item = ({ item: name }) => {
  const figure = (name, label) => part("td", name, { class: "figure", "data-label": label });
  const url = `/board/items/${encodeURIComponent(name)}`;
  const acts = [
    ...(may.demo ? [button("Send 1,000 buyers", `${url}/buyers`, { buyers: 1_000 }, `to ${name}`)] : []),
    ...(may.change ? [button("Open", `${url}/open`, {}, `the sale of ${name}`), button("Close", `${url}/close`, {}, `the sale of ${name}`)] : []),
  ];
  return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, part("span", "sale", { class: "badge" })),
    figure("stock", "Stock"), figure("available", "Left"), figure("held", "Held"), figure("sold", "Sold"),
    h("td", { class: "line" }, bar()), figure("conflicts", "Conflicts"),
    ...(acts.length ? [h("td", { class: "acts line" }, ...acts)] : []));
};
const showItems = (items) => {
  byId("no-items").hidden = items.length > 0;
  const byName = [...items].sort((one, other) => one.item.localeCompare(other.item));
  each(byId("items"), byName, (entry) => entry.item, item, (row, entry) => {
    const { stock, available, held, sold, conflicts } = entry;
    fill(row, { stock: count(stock), available: count(available), held: count(held), sold: count(sold), conflicts: count(conflicts) });
    badge(row.querySelector('[data-part="sale"]'), SALES[entry.sale]);
    fillBar(row.querySelector(".bar"), entry);
  });
};

const bars = (id, entries, most, head) =>
  each(byId(id), entries, ({ name }) => name,
    ({ name }) => h("tr", {}, h("th", { scope: "row" }, head(name)), part("td", "value", { class: "figure" }),
      h("td", { class: "share", "aria-hidden": "true" }, part("span", "meter", { class: "meter" })),
      part("td", "rest", { class: id === "verdicts" ? "figure" : "" })),
    (row, { value, rest }) => {
      fill(row, { value: count(value), rest });
      row.querySelector(".meter").style.width = `${(value * 100) / Math.max(most, FULL_MIN)}%`;
    });
const active = ({ exists, active, consumers }) => {
  if (!exists) return "no such queue";
  if (active === null) return plural(consumers, "consumer");
  return active.length ? active.join(", ") : consumers === 0 ? "nobody" : "not known yet";
};
const showQueues = (queues) => {
  const entries = queues.map((queue) => ({ name: queue.queue, value: queue.waiting, rest: active(queue) }));
  bars("queues", entries, Math.max(...entries.map(({ value }) => value)), (name) => name);
};
const showVerdicts = (verdicts) => {
  const entries = verdicts.map(({ code, total, per_second: pace }) => ({ name: code, value: total, rest: rounded(pace) }));
  byId("no-verdicts").hidden = entries.length > 0;
  bars("verdicts", entries, Math.max(...entries.map(({ value }) => value)), spaced);
};

const dead = ({ id }) => h("li", {},
  h("div", { class: "row" }, h("h3", {}, part("span", "reason"), " ", part("small", "from", { class: "dim" })),
    ...(may.change ? [button("Replay", `/board/dead/${id}/replay`, {}, `the message ${id}`), sureButton("Drop", `/board/dead/${id}/drop`, `the message ${id}`)] : [])),
  part("p", "message"),
  h("details", {}, h("summary", {}, "The message"), part("pre", "body")));
const showDead = ({ reasons, messages, behind, fault }) => {
  const total = Object.values(reasons).reduce((sum, some) => sum + some, behind);
  set(byId("dead-count"), count(total));
  byId("dead-count").parentElement.classList.toggle("bad", total > 0);
  set(byId("no-dead"), fault ?? "None: every message could be handled.");
  byId("no-dead").hidden = total > 0;
  const shown = [...Object.entries(reasons), ...(behind ? [["not looked at", behind]] : [])];
  each(byId("reasons"), shown, ([reason]) => reason, () => h("li", { class: "badge bad" }),
    (element, [reason, some]) => set(element, `${spaced(reason)} ${count(some)}`));
  each(byId("dead"), messages, ({ id }) => id, dead, (element, { id, reason, queue, message, copies, body }) => {
    const more = copies > 1 ? `, ${count(copies)} copies` : "";
    fill(element, { reason: spaced(reason), from: `from ${queue ?? "an unknown queue"}, ${id}${more}`, message, body });
  });
};

const show = (state) => {
  may = state.may;
  document.querySelectorAll(".may").forEach((head) => { head.hidden = !may.change && !may.demo; });
  const { sample } = state;
  samples = [...samples, sample].slice(-state.samples_max);
  set(byId("pace"), rounded(sample.reserved + sample.sold_out + sample.refused));
  set(byId("waiting"), count(Math.max(sample.waiting, sample.under_way)));
  set(byId("worker-count"), count(state.workers));
  set(byId("conflicts"), count(state.items.reduce((sum, { conflicts }) => sum + conflicts, 0)));
  set(byId("lag"), state.outbox.events ? span(state.outbox.lag_ms) : "none");
  showItems(state.items);
  showQueues(state.queues);
  showVerdicts(state.verdicts);
  draw();
  set(byId("notice"), state.faults.join(" "));
  byId("notice").hidden = state.faults.length === 0;
};
const history = (earlier) => { samples = earlier; };

listen("/board/events", { history, state: show, dead: showDead }, live);
