// The shop: what is on sale, and what became of what this browser bought.

import { SALES, badge, bar, byId, count, each, fill, fillBar, h, listen, live } from "./page.js";
import { Purchase, newId } from "./purchase.js";

/** Each has a stream of its own, and a browser few connections for a host. */
const OPEN_MAX = 3;
const KEPT_MAX = 20;
const KEPT = "turnstile.purchases";
const BUYER = "turnstile.buyer";

const buyer = byId("buyer");
buyer.value = localStorage.getItem(BUYER) ?? `guest-${newId().slice(-6)}`;
buyer.addEventListener("change", () => localStorage.setItem(BUYER, buyer.value));

const purchases = [];
const changed = () => {
  localStorage.setItem(KEPT, JSON.stringify(purchases.slice(0, KEPT_MAX).map((purchase) => purchase.request)));
  byId("no-purchases").hidden = purchases.length > 0;
};
const show = (request) => {
  const purchase = new Purchase(request);
  purchases.unshift(purchase);
  byId("purchases").prepend(purchase.element);
  changed();
  return purchase;
};

const buy = (event, item) => {
  event.preventDefault();
  localStorage.setItem(BUYER, buyer.value);
  const note = event.target.querySelector('[data-part="note"]');
  const open = purchases.filter((purchase) => purchase.isOpen).length;
  note.hidden = open < OPEN_MAX;
  if (open >= OPEN_MAX) return;
  const quantity = Number(event.target.elements.quantity.value);
  show({ id: newId(), item, quantity, ...(buyer.value ? { buyer: buyer.value } : {}) }).send();
};

const card = ({ item }) => {
  const id = `quantity-${item}`;
  const part = (tag, name, attributes = {}) => h(tag, { "data-part": name, ...attributes });
  return h("li", { class: "card" },
    h("div", { class: "row" }, h("h3", {}, item), part("span", "sale", { class: "badge" })),
    h("p", { class: "left" }, part("strong", "available"), " ", part("span", "of")),
    bar(),
    h("p", { class: "units" }, part("span", "sold", { class: "key sold" }), part("span", "held", { class: "key held" }),
      part("span", "left", { class: "key" })),
    h("form", { class: "buy", submit: (event) => buy(event, item) },
      h("label", { for: id }, "Quantity"),
      h("input", { id, name: "quantity", type: "number", min: "1", max: "1000", value: "1", required: true }),
      h("button", { class: "main", "aria-label": `Buy ${item}` }, "Buy"),
      h("p", { class: "small dim", "data-part": "note", role: "status", hidden: true },
        `You have ${OPEN_MAX} purchases under way: pay for one, or let it go, and go on.`)));
};

const showItems = ({ items }) => {
  byId("no-items").hidden = items.length > 0;
  const byName = [...items].sort((one, other) => one.item.localeCompare(other.item));
  each(byId("items"), byName, ({ item }) => item, card, (element, item) => {
    const { stock, available, held, sold, sale } = item;
    fill(element, {
      available: count(available), of: `left of ${count(stock)}`,
      sold: `${count(sold)} sold`, held: `${count(held)} held`, left: `${count(available)} left`,
    });
    badge(element.querySelector('[data-part="sale"]'), sale === "open" && available === 0 ? ["Sold out", "warn"] : SALES[sale]);
    fillBar(element.querySelector(".bar"), item);
  });
};

const kept = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
kept.reverse().forEach((request) => show(request).follow());
listen("/items", { items: showItems }, live);
