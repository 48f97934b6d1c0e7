"""Buys from Turnstile with aio-pika: sends one purchase request, waits for its verdict and prints it.

    pip install aio-pika
    AMQP_URL=amqp://guest:guest@localhost:5672/%2f python3 buy_aio_pika.py ITEM BUYER QUANTITY [REQUEST_ID]

Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
"""

import asyncio, json, os, sys, uuid

import aio_pika


async def buy(amqp_url, request):
    async with await aio_pika.connect_robust(amqp_url) as connection:
        channel = await connection.channel()  # with publisher confirms: what no queue takes raises
        replies = await channel.declare_queue(exclusive=True)  # a name like amq_0f3c…
        verdict = asyncio.get_running_loop().create_future()

        async def keep(message):
            if message.correlation_id == request["request_id"] and not verdict.done():
                verdict.set_result(message.body.decode())

        await replies.consume(keep, no_ack=True)
        message = aio_pika.Message(
            json.dumps(request).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            reply_to=replies.name,
            correlation_id=request["request_id"],
            user_id=connection.url.user,  # RabbitMQ takes no other: the id and the order are this user's own
        )
        # The routing key is the item: requests for one item share a queue, which keeps them in order.
        await (await channel.get_exchange("purchase")).publish(message, routing_key=request["item"])
        return await asyncio.wait_for(verdict, timeout=30)


if __name__ == "__main__":
    try:
        item, buyer, quantity, request_id = (sys.argv[1:] + [str(uuid.uuid4())])[:4]
        request = {"request_id": request_id, "item": item, "buyer": buyer, "quantity": int(quantity)}
    except ValueError:
        sys.exit(__doc__)
    verdict = asyncio.run(buy(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f"), request))
    print(verdict)
    sys.exit(0 if json.loads(verdict)["status"] == "reserved" else 1)
