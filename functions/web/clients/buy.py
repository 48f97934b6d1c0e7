"""Buys at a door with requests: python3 buy.py ITEM BUYER QUANTITY [REQUEST_ID]. Exit code 0: reserved, 1: another verdict, 2: none yet."""

import os
import sys
import time
import uuid

import requests

item, buyer, quantity = sys.argv[1:4]
request_id = sys.argv[4] if len(sys.argv) > 4 else str(uuid.uuid4())
door = os.environ.get("DOOR", "http://127.0.0.1:8080")

for attempt in range(10):
    try:
        response = requests.post(
            f"{door}/items/{item}/purchases",
            json={"buyer": buyer, "quantity": int(quantity)},
            headers={"Idempotency-Key": request_id, "Prefer": "wait=20"},
            timeout=30,
        )
    except requests.RequestException:
        response = None
    if response is not None and response.status_code not in (202, 408) and response.status_code < 500:
        print(response.text)
        sys.exit(0 if response.json()["status"] == "reserved" else 1)
    time.sleep(1)  # Not decided yet, or nobody knows: asked again under the same key it is one purchase.
print(f"no verdict yet: ask again with the request id {request_id}", file=sys.stderr)
sys.exit(2)
