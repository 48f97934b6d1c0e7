"""Buys from Turnstile: sends one purchase request, or many in one message, waits for each verdict and prints it.

    pip install pika
    export AMQP_URL=amqp://guest:guest@localhost:5672/%2f
    python3 buy.py ITEM BUYER QUANTITY [REQUEST_ID]
    python3 buy.py ITEM BUYER QUANTITY BUYER QUANTITY ...
    python3 buy.py --file FILE    a JSON array of requests for one item, each with its request_id; - is standard input

Exit code 0: all units are reserved. 1: they are not, or there is no verdict; the same request ids get the same ones.
"""

import json, os, sys, time, uuid

import pika

WAIT_SECONDS_MAX = 30
REPLY_TO = "amq.rabbitmq.reply-to"  # direct reply-to: no queue to declare, none to clean up


def buy(amqp_url, item, correlation_id, body):
    nodes = [pika.URLParameters(url) for url in amqp_url.split(",")]  # of a cluster, the first that answers
    for parameters in nodes:
        parameters.blocked_connection_timeout = WAIT_SECONDS_MAX  # a broker short of memory or disk takes nothing
    with pika.BlockingConnection(nodes) as connection:
        channel = connection.channel()
        channel.confirm_delivery()  # from here on, basic_publish raises if the broker does not take the message
        replies = {}

        def keep(_channel, _method, properties, body):
            replies[properties.correlation_id] = body

        channel.basic_consume(REPLY_TO, keep, auto_ack=True)
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            reply_to=REPLY_TO,
            correlation_id=correlation_id,
            user_id=nodes[0].credentials.username,  # RabbitMQ takes no other: the id and the order are this user's own
        )
        # The routing key is the item: requests for one item share a queue, which keeps them in order.
        channel.basic_publish("purchase", item, body, properties, mandatory=True)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while correlation_id not in replies:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise TimeoutError(f"no verdict within {WAIT_SECONDS_MAX} s")
            connection.process_data_events(time_limit=seconds_left)
        # Of an array, an array in the same order; of a message that is invalid as a whole, one verdict.
        return as_list(json.loads(replies[correlation_id]))


def body_of(item, *others):
    if item == "--file":
        (path,) = others
        return (sys.stdin if path == "-" else open(path, encoding="utf-8")).read()
    *others, request_id = others if len(others) == 3 else (*others, None)
    if not others or len(others) % 2:
        raise ValueError("each BUYER needs a QUANTITY")
    requests = [
        {"request_id": request_id or str(uuid.uuid4()), "item": item, "buyer": buyer, "quantity": int(quantity)}
        for buyer, quantity in zip(others[::2], others[1::2])
    ]
    return json.dumps(requests if len(requests) > 1 else requests[0])


def as_list(value):
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    try:
        body = body_of(*sys.argv[1:])
        requests = as_list(json.loads(body))
        item, request_id = str(requests[0]["item"]), str(requests[0]["request_id"])
    except (OSError, LookupError, TypeError, ValueError) as error:
        sys.exit(f"{__doc__}\n{error!r}")
    try:
        verdicts = buy(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f"), item, request_id, body)
    except (pika.exceptions.AMQPError, OSError) as error:
        again = f"requests (--file -): {body}" if len(requests) > 1 else f"request id: {request_id}"
        sys.exit(f"{error!r}\nAsk again with the same {again}")
    for verdict in verdicts:
        print(json.dumps(verdict, ensure_ascii=False, separators=(",", ":")))
    sys.exit(0 if all(verdict["status"] == "reserved" for verdict in verdicts) else 1)
