//! Each check as one statement: it returns the offenders, and none where all is well.
//!
//! $1 is how many offenders are named, $2 the limit that the check goes by, where it has one. Every statement is a plain
//! `SELECT` of a name, and of the count of all offenders.

use super::Limits;

#[derive(Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    /// What should be.
    pub should: &'static str,
    /// Which limit it goes by: seconds or days.
    pub(super) limit: Option<fn(Limits) -> u32>,
    pub(super) sql: &'static str,
}

/// In reading order.
pub const CHECKS: [Check; 11] = [
    Check {
        name: "stock_conserved",
        should: "available + held + sold = stock, none below zero",
        limit: None,
        sql: "
SELECT format('%s (%s + %s + %s, stock %s)', id, available, held, sold, stock) AS name, count(*) OVER () AS offenders
FROM items WHERE available + held + sold <> stock OR least(available, held, sold) < 0
ORDER BY id LIMIT $1",
    },
    Check {
        name: "stock_matches_orders",
        should: "held and sold of an item are what its orders add up to",
        limit: None,
        sql: "
WITH sums AS (
    SELECT item, coalesce(sum(quantity) FILTER (WHERE state IN ('reserved', 'paying')), 0) AS held,
           coalesce(sum(quantity) FILTER (WHERE state = 'paid'), 0) AS sold
    FROM orders GROUP BY item
)
SELECT format('%s (held %s and sold %s, by its orders %s and %s)', coalesce(items.id, sums.item),
              coalesce(items.held::text, 'none'), coalesce(items.sold::text, 'none'),
              coalesce(sums.held, 0), coalesce(sums.sold, 0)) AS name,
       count(*) OVER () AS offenders
FROM items FULL JOIN sums ON sums.item = items.id
WHERE items.held IS DISTINCT FROM coalesce(sums.held, 0) OR items.sold IS DISTINCT FROM coalesce(sums.sold, 0)
ORDER BY coalesce(items.id, sums.item) LIMIT $1",
    },
    // An order is inserted with its verdict, in one statement, with one time; the verdict leaves after its days and the
    // order stays. An hour is spared, so that none is missed that is just leaving.
    Check {
        name: "orders_have_verdicts",
        should: "each order came with a reserved verdict, as long as verdicts are kept",
        limit: Some(|limits| limits.verdicts_days),
        sql: "
SELECT format('%s (request %s)', id, request_id) AS name, count(*) OVER () AS offenders FROM orders
WHERE created_at > now() - make_interval(days => $2::int) + interval '1 hour' AND NOT EXISTS (
    SELECT FROM verdicts
    WHERE verdicts.request_id = orders.request_id AND verdicts.status = 'reserved' AND verdicts.item = orders.item)
ORDER BY id LIMIT $1",
    },
    Check {
        name: "verdicts_have_orders",
        should: "each reserved verdict has the order that its buyer was told of",
        limit: None,
        sql: r#"
SELECT format('request %s (item %s)', request_id, item) AS name, count(*) OVER () AS offenders FROM verdicts
WHERE status = 'reserved' AND NOT EXISTS (
    SELECT FROM orders
    WHERE orders.request_id = verdicts.request_id AND orders.item = verdicts.item
      AND strpos(verdicts.reply, format('"order":{"id":"%s"', orders.id)) > 0)
ORDER BY request_id LIMIT $1"#,
    },
    Check {
        name: "holds_end",
        should: "no reserved order is kept past its time (else: does release run?)",
        limit: Some(|limits| limits.overdue_seconds_max),
        sql: "
SELECT format('%s (of %s, since %s)', id, item, hold_until) AS name, count(*) OVER () AS offenders FROM orders
WHERE state = 'reserved' AND hold_until < now() - make_interval(secs => $2)
ORDER BY hold_until LIMIT $1",
    },
    Check {
        name: "payments_end",
        should: "no order is being paid for without end (else: does payment run?)",
        limit: Some(|limits| limits.paying_seconds_max),
        sql: "
WITH paying AS (
    SELECT id, item, (SELECT max(at) FROM order_history WHERE order_id = orders.id AND to_state = 'paying') AS since
    FROM orders WHERE state = 'paying'
)
SELECT format('%s (of %s, since %s)', id, item, since) AS name, count(*) OVER () AS offenders FROM paying
WHERE since IS NULL OR since < now() - make_interval(secs => $2)
ORDER BY since, id LIMIT $1",
    },
    Check {
        name: "orders_end_once",
        should: "an order that ended has one row of history that ends it, any other has none",
        limit: None,
        sql: "
WITH ends AS (
    SELECT order_id, count(*) AS ends FROM order_history WHERE to_state IN ('paid', 'expired', 'cancelled')
    GROUP BY order_id
)
SELECT format('%s (%s, ended %s times)', id, state, coalesce(ends, 0)) AS name, count(*) OVER () AS offenders
FROM orders LEFT JOIN ends ON ends.order_id = orders.id
WHERE coalesce(ends, 0) <> CASE WHEN state IN ('paid', 'expired', 'cancelled') THEN 1 ELSE 0 END
ORDER BY id LIMIT $1",
    },
    Check {
        name: "history_leads_to_state",
        should: "an order's history is one chain from reserved to its state",
        limit: None,
        sql: "
WITH steps AS (
    SELECT order_id, at, to_state, from_state,
           lag(to_state, 1, 'reserved') OVER (PARTITION BY order_id ORDER BY at) AS before
    FROM order_history
), chains AS (
    SELECT order_id, (array_agg(to_state ORDER BY at DESC))[1] AS last, bool_or(from_state <> before) AS is_broken
    FROM steps GROUP BY order_id
)
SELECT format('%s (%s, by its history %s)', id, state, coalesce(last, 'reserved')) AS name,
       count(*) OVER () AS offenders
FROM orders LEFT JOIN chains ON chains.order_id = orders.id
WHERE state <> coalesce(last, 'reserved') OR coalesce(is_broken, false)
ORDER BY id LIMIT $1",
    },
    Check {
        name: "charges_match_paid_orders",
        should: "an order is paid exactly where its payment has a charge",
        limit: None,
        sql: "
SELECT format('%s (%s, %s)', id, state, coalesce('charge ' || charge_id, 'no charge')) AS name,
       count(*) OVER () AS offenders
FROM orders LEFT JOIN payments ON payments.order_id = orders.id
WHERE (state = 'paid') <> (charge_id IS NOT NULL)
ORDER BY id LIMIT $1",
    },
    Check {
        name: "outbox_is_told",
        should: "no event waits too long (else: does relay run?)",
        limit: Some(|limits| limits.outbox_lag_seconds_max),
        sql: "
SELECT format('%s %s (since %s)', id, kind, at) AS name, count(*) OVER () AS offenders FROM outbox
WHERE at < now() - make_interval(secs => $2)
ORDER BY id LIMIT $1",
    },
    Check {
        name: "outbox_fails_nowhere",
        should: "no event was set aside because it could not be published",
        limit: None,
        sql: "
SELECT format('%s %s (%s)', id, kind, reason) AS name, count(*) OVER () AS offenders FROM outbox_failed
ORDER BY id LIMIT $1",
    },
];
