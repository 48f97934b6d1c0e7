// Buys at a door with fetch: node buy.mjs ITEM BUYER QUANTITY [REQUEST_ID]. Exit code 0: reserved, 1: another verdict, 2: none yet.
// In a page of the door's own, or of an origin in CORS_ORIGIN, it is the same.
const [item, buyer, quantity, id = crypto.randomUUID()] = process.argv.slice(2);
const door = process.env.DOOR ?? "http://127.0.0.1:8080";

async function ask() {
  const response = await fetch(`${door}/items/${item}/purchases`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": id, Prefer: "wait=20" },
    body: JSON.stringify({ buyer, quantity: Number(quantity) }),
    signal: AbortSignal.timeout(30_000),
  });
  // Not decided yet, or nobody knows: asked again under the same key it is one purchase.
  return [202, 408].includes(response.status) || response.status >= 500 ? null : response.text();
}

let verdict = null;
for (let attempt = 0; attempt < 10 && verdict === null; attempt += 1) {
  verdict = await ask().catch(() => null);
  if (verdict === null) await new Promise((resolve) => setTimeout(resolve, 1_000));
}
if (verdict === null) {
  console.error(`no verdict yet: ask again with the request id ${id}`);
  process.exit(2);
}
console.log(verdict);
process.exit(JSON.parse(verdict).status === "reserved" ? 0 : 1);
