// Buys from Turnstile: sends one purchase request, waits for its verdict and prints it.
//
//     npm install amqplib
//     AMQP_URL=amqp://guest:guest@localhost:5672/%2f node buy.mjs ITEM BUYER QUANTITY [REQUEST_ID]
//
// Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const WAIT_MS_MAX = 30_000;
const REPLY_TO = "amq.rabbitmq.reply-to"; // direct reply-to: no queue to declare, none to clean up

// Of a cluster, the first node that answers.
async function connect([url, ...others]) {
  const connecting = amqp.connect(url, { timeout: WAIT_MS_MAX });
  return await (others.length > 0 ? connecting.catch(() => connect(others)) : connecting);
}

async function buy(connection, userId, request) {
  const channel = await connection.createConfirmChannel();
  const verdict = new Promise((resolve, reject) => {
    const fail = (why) => (error) => reject(error instanceof Error ? error : new Error(why));
    setTimeout(fail(`no verdict within ${WAIT_MS_MAX} ms`), WAIT_MS_MAX).unref();
    for (const emitter of [connection, channel]) {
      emitter.on("error", fail("the connection failed")).on("close", fail("the connection was closed"));
    }
    channel.on("return", fail("no queue is bound to the exchange purchase"));
    const keep = (message) => message?.properties.correlationId === request.request_id && resolve(`${message.content}`);
    channel.consume(REPLY_TO, keep, { noAck: true }).catch(reject);
    // The routing key is the item: requests for one item share a queue, which keeps them in order.
    channel.publish("purchase", request.item, Buffer.from(JSON.stringify(request)), {
      contentType: "application/json",
      persistent: true,
      mandatory: true, // comes back ("return") if there is no queue to take it
      replyTo: REPLY_TO,
      correlationId: request.request_id,
      userId, // the connection's user, RabbitMQ takes no other: the id and the order are theirs alone
    }, (error) => error && reject(error)); // the broker's confirm, or why there is none
  });
  return await verdict;
}

const [item, buyer, quantity, requestId = randomUUID()] = process.argv.slice(2);
if (!Number.isInteger(Number(quantity))) {
  console.error("usage: node buy.mjs ITEM BUYER QUANTITY [REQUEST_ID]");
  process.exit(1);
}
try {
  const urls = process.env.AMQP_URL ?? "amqp://guest:guest@localhost:5672/%2f";
  const connection = await connect(urls.split(","));
  const user = decodeURIComponent(new URL(urls.split(",")[0]).username);
  const verdict = await buy(connection, user, { request_id: requestId, item, buyer, quantity: Number(quantity) });
  await connection.close();
  console.log(verdict);
  process.exitCode = JSON.parse(verdict).status === "reserved" ? 0 : 1;
} catch (error) {
  console.error(`${error.message || error.code}\nAsk again with the same request id: ${requestId}`);
  process.exit(1);
}
