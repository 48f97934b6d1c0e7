#!/bin/sh
# Buys at a door with curl: sh buy.sh ITEM BUYER QUANTITY [REQUEST_ID]. Exit code 0: reserved, 1: another verdict, 2: none yet.
door=${DOOR:-http://127.0.0.1:8080}
id=${4:-$(cat /proc/sys/kernel/random/uuid)}
# Asked again under the same key it is one purchase, whatever broke in between.
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    answer=$(curl --silent --show-error --max-time 30 --write-out '\n%{http_code}' "$door/items/$1/purchases" \
        --header 'Content-Type: application/json' --header "Idempotency-Key: $id" --header 'Prefer: wait=20' \
        --data "{\"buyer\": \"$2\", \"quantity\": $3}")
    status=${answer##*
}
    case $status in
    202 | 408 | 5?? | 000) sleep 1 ;; # Not decided yet, or nobody knows.
    *) break ;;
    esac
    [ "$attempt" -lt 10 ] || { echo "no verdict yet: ask again with the request id $id" >&2 && exit 2; }
done
printf '%s\n' "${answer%
*}"
case $answer in *'"status":"reserved"'*) exit 0 ;; esac
exit 1
