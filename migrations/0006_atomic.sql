-- What the purchase function's strategies `atomic` and `redis` need to decide a batch in one statement, in SQL
-- (functions/purchase/src/strategy/atomic.rs).

-- What is left of an item after a request for `quantity`: the request gets its units if there are enough of them, and is passed
-- over if not. `units` is what was left before it; NULL before the first, when it is what the item has.
-- PL/pgSQL, because the aggregate calls it for each request: half the time of a function in plain SQL.
CREATE FUNCTION take_if_enough(units bigint, quantity bigint, available bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN coalesce(units, available)
        - CASE WHEN quantity <= coalesce(units, available) THEN quantity ELSE 0 END;
END
$$;

-- What is left of an item after requests for these quantities, in their order: first come, first served, which no sum can say,
-- as a request that asks for too much is passed over and a smaller one behind it is served.
CREATE AGGREGATE units_left(quantity bigint, available bigint) (SFUNC = take_if_enough, STYPE = bigint);

-- A moment as replies tell it: RFC 3339, as short as it can be said. STABLE, as to_char is: promising more would keep it from
-- being put in line, and each call would cost three times as much.
CREATE FUNCTION rfc3339(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN rtrim(rtrim(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z';
