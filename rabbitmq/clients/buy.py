"""Buys from Turnstile: sends one purchase request, waits for its verdict and prints it.

    pip install pika
    AMQP_URL=amqp://guest:guest@localhost:5672/%2f python3 buy.py ITEM BUYER QUANTITY [REQUEST_ID]

Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
"""

import json, os, sys, time, uuid

import pika

WAIT_SECONDS_MAX = 30
REPLY_TO = "amq.rabbitmq.reply-to"  # direct reply-to: no queue to declare, none to clean up


def buy(amqp_url, request):
    nodes = [pika.URLParameters(url) for url in amqp_url.split(",")]  # of a cluster, the first that answers
    for parameters in nodes:
        parameters.blocked_connection_timeout = WAIT_SECONDS_MAX  # a broker short of memory or disk takes nothing
    with pika.BlockingConnection(nodes) as connection:
        channel = connection.channel()
        channel.confirm_delivery()  # from here on, basic_publish raises if the broker does not take the message
        verdicts = {}

        def keep(_channel, _method, properties, body):
            verdicts[properties.correlation_id] = body.decode()

        channel.basic_consume(REPLY_TO, keep, auto_ack=True)
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            reply_to=REPLY_TO,
            correlation_id=request["request_id"],
            user_id=nodes[0].credentials.username,  # RabbitMQ takes no other: the id and the order are this user's own
        )
        # The routing key is the item: requests for one item share a queue, which keeps them in order.
        channel.basic_publish("purchase", request["item"], json.dumps(request), properties, mandatory=True)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while request["request_id"] not in verdicts:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise TimeoutError(f"no verdict within {WAIT_SECONDS_MAX} s")
            connection.process_data_events(time_limit=seconds_left)
        return verdicts[request["request_id"]]


if __name__ == "__main__":
    try:
        item, buyer, quantity, request_id = (sys.argv[1:] + [str(uuid.uuid4())])[:4]
        request = {"request_id": request_id, "item": item, "buyer": buyer, "quantity": int(quantity)}
    except ValueError:
        sys.exit(__doc__)
    try:
        verdict = buy(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f"), request)
    except (pika.exceptions.AMQPError, OSError) as error:
        sys.exit(f"{error!r}\nAsk again with the same request id: {request_id}")
    print(verdict)
    sys.exit(0 if json.loads(verdict)["status"] == "reserved" else 1)
