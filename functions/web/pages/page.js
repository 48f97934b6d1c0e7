// What both pages are made of. What comes from the server becomes text nodes and attributes, never markup.

export const byId = (id) => document.getElementById(id);

export const h = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

export const count = (number) => number.toLocaleString("en-US");
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
export const spaced = (word) => word.replaceAll("_", " ");

export const span = (ms) => {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${Math.round(ms / 100) / 10} s`;
  return `${count(Math.round(ms / 60_000))} min`;
};

/** Sets only what has changed: what is selected or focused stays so, and nothing is read out twice. */
export const set = (element, text) => {
  if (element.textContent !== String(text)) element.textContent = text;
};

/** Sets the texts of the parts of an element that have these names. */
export const fill = (element, texts) => {
  for (const [name, text] of Object.entries(texts)) set(element.querySelector(`[data-part="${name}"]`), text);
};

/** Has `parent` hold one element for each entry, in order. Those that are there stay, so nobody loses the focus. */
export const each = (parent, entries, key, make, update) => {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  entries.forEach((entry, index) => {
    const element = old.get(key(entry)) ?? make(entry);
    element.dataset.key = key(entry);
    old.delete(key(entry));
    update(element, entry);
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  old.forEach((element) => element.remove());
};

const SAID_MS = 8_000;
let saying = 0;
/** For those who listen; on the board, for those who look, too. */
export const say = (text) => {
  clearTimeout(saying);
  set(byId("status"), text);
  saying = setTimeout(() => set(byId("status"), ""), SAID_MS);
};

export const bar = () => h("div", { class: "bar", role: "img" }, h("i", { class: "sold" }), h("i", { class: "held" }));
export const fillBar = (bar, { stock, available, held, sold }) => {
  const width = (units) => `${stock > 0 ? (units * 100) / stock : 0}%`;
  bar.setAttribute("aria-label", `${count(sold)} sold, ${count(held)} held, ${count(available)} left`);
  bar.querySelector(".sold").style.width = width(sold);
  bar.querySelector(".held").style.width = width(held);
};
export const SALES = { open: ["Open", "good"], not_open: ["Not open yet", "warn"], closed: ["Closed", "bad"] };
export const badge = (element, [text, tone]) => {
  set(element, text);
  element.className = `badge ${tone}`;
};

const AGAIN_MS = 3_000;

/** Listens for as long as somebody looks: a browser has six connections for a host, whatever is open in other tabs. */
export const listen = (url, handlers, down = () => {}) => {
  let [source, timer] = [null, 0];
  const shut = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const open = () => {
    shut();
    if (document.hidden) return;
    source = new EventSource(url);
    source.onopen = () => down(false);
    source.onerror = () => {
      down(true);
      // It tries again by itself, but for an answer that is no stream.
      if (source?.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };
  document.addEventListener("visibilitychange", open);
  open();
  return () => {
    document.removeEventListener("visibilitychange", open);
    shut();
  };
};

export const live = (down) => {
  byId("link").classList.toggle("down", down);
  set(byId("link"), down ? "Connection lost, trying again" : "Live");
};

const named = (headers) => ({ date: headers.get("date"), location: headers.get("location") ?? undefined, retryAfter: headers.get("retry-after") });

/** What a request came to. An answer that is no JSON, or a problem, is one for people: `problem`. */
export const ask = async (method, url, { body, headers = {} } = {}) => {
  const type = body === undefined ? {} : { "content-type": "application/json" };
  const options = { method, headers: { ...type, ...headers }, body: body && JSON.stringify(body) };
  const response = await fetch(url, options);
  const answer = await response.json().catch(() => null);
  const isProblem = response.headers.get("content-type")?.includes("problem") || answer === null;
  const problem = isProblem ? (answer?.detail ?? answer?.title ?? `The server answered ${response.status}.`) : null;
  return { status: response.status, answer, problem, ...named(response.headers) };
};
