"""Buys from Turnstile with kombu: sends one purchase request, waits for its verdict and prints it.

    pip install kombu
    AMQP_URL=amqp://guest:guest@localhost:5672/%2f python3 buy_kombu.py ITEM BUYER QUANTITY [REQUEST_ID]

Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
"""

import json, os, sys

from kombu import Connection, Consumer, Producer, Queue, uuid


def buy(amqp_url, request):
    verdicts = []

    def keep(message):
        if message.properties["correlation_id"] == request["request_id"]:
            verdicts.append(message.body)

    # From here on, publish returns when the broker has confirmed it.
    with Connection(amqp_url, transport_options={"confirm_publish": True}) as connection:
        replies = Queue(uuid(), exclusive=True, durable=False, auto_delete=True)
        with Consumer(connection, replies, on_message=keep, no_ack=True):
            Producer(connection).publish(
                request,
                serializer="json",
                exchange="purchase",
                routing_key=request["item"],  # requests for one item share a queue, which keeps them in order
                delivery_mode="persistent",
                mandatory=True,
                reply_to=replies.name,
                correlation_id=request["request_id"],
                user_id=connection.userid,  # RabbitMQ takes no other: the id and the order are this user's own
            )
            while not verdicts:
                connection.drain_events(timeout=30)
    return verdicts[0]


if __name__ == "__main__":
    try:
        item, buyer, quantity, request_id = (sys.argv[1:] + [uuid()])[:4]
        request = {"request_id": request_id, "item": item, "buyer": buyer, "quantity": int(quantity)}
    except ValueError:
        sys.exit(__doc__)
    verdict = buy(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f"), request)
    print(verdict if isinstance(verdict, str) else verdict.decode())
    sys.exit(0 if json.loads(verdict)["status"] == "reserved" else 1)
