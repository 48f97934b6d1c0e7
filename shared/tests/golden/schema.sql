-- The schema as text, one object a line: what a database is after all migrations. It is the same on PostgreSQL 15 to 18: from
-- 17 on, an owner may also maintain (m), and no target of statistics is NULL; 18 counts NOT NULL among the constraints.
SELECT line FROM (
    SELECT format('table %s kind=%s options=%s grants=%s', c.relname, c.relkind, c.reloptions,
                  replace(c.relacl::text, 'arwdDxtm/', 'arwdDxt/')) AS line
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'i'
    UNION ALL
    SELECT format('column %s.%s %s %s not_null=%s default=%s identity=%s generated=%s storage=%s statistics=%s', c.relname,
                  lpad(a.attnum::text, 2, '0'), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                  pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage,
                  coalesce(a.attstattarget, -1))
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') AND a.attnum > 0
      AND NOT a.attisdropped
    UNION ALL
    SELECT format('constraint %s.%s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    UNION ALL
    SELECT format('index %s options=%s', pg_get_indexdef(i.indexrelid), c.reloptions)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('function %s', pg_get_functiondef(oid)) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind <> 'a'
    UNION ALL
    SELECT format('aggregate %s(%s) step=%s', p.proname, pg_get_function_arguments(p.oid), a.aggtransfn)
    FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
    WHERE p.pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal
    UNION ALL
    SELECT format('migration %s %s %s', version, description, encode(checksum, 'hex')) FROM _sqlx_migrations
) AS schema
ORDER BY line COLLATE "C"
