// Buys from Turnstile: sends one purchase request, or many in one message, waits for each verdict and prints it.
//
//     npm install amqplib
//     export AMQP_URL=amqp://guest:guest@localhost:5672/%2f
//     node buy.mjs ITEM BUYER QUANTITY [REQUEST_ID]
//     node buy.mjs ITEM BUYER QUANTITY BUYER QUANTITY ...
//     node buy.mjs --file FILE    a JSON array of requests for one item, each with its request_id; - is standard input
//
// Exit code 0: all units are reserved. 1: they are not, or there is no verdict; the same request ids get the same ones.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import amqp from "amqplib";

const WAIT_MS_MAX = 30_000;
const REPLY_TO = "amq.rabbitmq.reply-to"; // direct reply-to: no queue to declare, none to clean up

// Of a cluster, the first node that answers.
async function connect([url, ...others]) {
  const connecting = amqp.connect(url, { timeout: WAIT_MS_MAX });
  return await (others.length > 0 ? connecting.catch(() => connect(others)) : connecting);
}

async function buy(connection, userId, item, correlationId, body) {
  const channel = await connection.createConfirmChannel();
  const reply = await new Promise((resolve, reject) => {
    const fail = (why) => (error) => reject(error instanceof Error ? error : new Error(why));
    setTimeout(fail(`no verdict within ${WAIT_MS_MAX} ms`), WAIT_MS_MAX).unref();
    for (const emitter of [connection, channel]) {
      emitter.on("error", fail("the connection failed")).on("close", fail("the connection was closed"));
    }
    channel.on("return", fail("no queue is bound to the exchange purchase"));
    const keep = (message) => message?.properties.correlationId === correlationId && resolve(`${message.content}`);
    channel.consume(REPLY_TO, keep, { noAck: true }).catch(reject);
    // The routing key is the item: requests for one item share a queue, which keeps them in order.
    channel.publish("purchase", item, Buffer.from(body), {
      contentType: "application/json",
      persistent: true,
      mandatory: true, // comes back ("return") if there is no queue to take it
      replyTo: REPLY_TO,
      correlationId,
      userId, // the connection's user, RabbitMQ takes no other: the id and the order are theirs alone
    }, (error) => error && reject(error)); // the broker's confirm, or why there is none
  });
  // Of an array, an array in the same order; of a message that is invalid as a whole, one verdict.
  return [JSON.parse(reply)].flat();
}

function bodyOf([item, ...others]) {
  if (item === "--file") return readFileSync(others[0] === "-" ? 0 : others[0], "utf8");
  const requestId = others.length === 3 ? others.pop() : undefined;
  const requests = [];
  do {
    const [buyer, quantity] = others.splice(0, 2);
    if (!Number.isInteger(Number(quantity))) throw new Error("each BUYER needs a QUANTITY");
    requests.push({ request_id: requestId ?? randomUUID(), item, buyer, quantity: Number(quantity) });
  } while (others.length > 0);
  return JSON.stringify(requests.length > 1 ? requests : requests[0]);
}

let body, requests, item, requestId;
try {
  body = bodyOf(process.argv.slice(2));
  requests = [JSON.parse(body)].flat();
  ({ item, request_id: requestId } = requests[0] ?? {});
  if (!item || !requestId) throw new Error("each request needs an item and a request_id");
} catch (error) {
  console.error("usage: node buy.mjs ITEM BUYER QUANTITY [REQUEST_ID | BUYER QUANTITY ...] or --file FILE");
  console.error(error.message);
  process.exit(1);
}
try {
  const urls = process.env.AMQP_URL ?? "amqp://guest:guest@localhost:5672/%2f";
  const connection = await connect(urls.split(","));
  const user = decodeURIComponent(new URL(urls.split(",")[0]).username);
  const verdicts = await buy(connection, user, `${item}`, `${requestId}`, body);
  await connection.close();
  for (const verdict of verdicts) console.log(JSON.stringify(verdict));
  process.exitCode = verdicts.every(({ status }) => status === "reserved") ? 0 : 1;
} catch (error) {
  const again = requests.length > 1 ? `requests (--file -): ${body}` : `request id: ${requestId}`;
  console.error(`${error.message || error.code}\nAsk again with the same ${again}`);
  process.exit(1);
}
