//! The schema: what it was made by, whether it is the one that this program knows, and what the functions may do to it.
//!
//! Each migration works while workers of the version before run, and what they start again: so a program takes a newer schema,
//! too. Should one ever not, its name begins with [`BREAKING`], and programs that do not know it refuse it.

use super::{NO_LIMITS, OpenError, answered, is_locked_out, pool_with};
use crate::retry::RetryPolicy;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgPool};
use std::borrow::Cow;

/// Its history, embedded, so that a binary alone can set up its database.
const MIGRATIONS: [(i64, &str, &str); 14] = [
    (1, "purchase", include_str!("../../../migrations/0001_purchase.sql")),
    (2, "release", include_str!("../../../migrations/0002_release.sql")),
    (3, "payment", include_str!("../../../migrations/0003_payment.sql")),
    (4, "restock", include_str!("../../../migrations/0004_restock.sql")),
    (5, "outbox", include_str!("../../../migrations/0005_outbox.sql")),
    (6, "atomic", include_str!("../../../migrations/0006_atomic.sql")),
    (7, "redis", include_str!("../../../migrations/0007_redis.sql")),
    (8, "content", include_str!("../../../migrations/0008_content.sql")),
    (9, "ids", include_str!("../../../migrations/0009_ids.sql")),
    (10, "pending_payments", include_str!("../../../migrations/0010_pending_payments.sql")),
    (11, "restored", include_str!("../../../migrations/0011_restored.sql")),
    (12, "senders", include_str!("../../../migrations/0012_senders.sql")),
    (13, "roles", include_str!("../../../migrations/0013_roles.sql")),
    (14, "order_retention", include_str!("../../../migrations/0014_order_retention.sql")),
];
/// The one that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;
/// How the name of a migration begins that workers of versions before it cannot run with.
const BREAKING: &str = "breaking";
/// A `GRANT` a line: given where `roles.sql` was run, and tried by every function.
const RIGHTS: &str = include_str!("../../../migrations/rights.sql");

const UNDEFINED_TABLE: &str = "42P01";
/// The table is the migrator's.
const APPLIED: &str = "SELECT version, checksum, description FROM _sqlx_migrations WHERE success ORDER BY version";
/// Who is to have the tables, where `roles.sql` was run in this database and we may become them. Roles are all databases', and until
/// PostgreSQL 15 everybody may make tables: so what counts is a grant to this role, and who has the tables that are there.
const OWNER: &str = "
SELECT rolname::text FROM pg_roles
WHERE rolname = 'turnstile_owner' AND pg_has_role(oid, 'MEMBER') AND EXISTS (
    SELECT FROM pg_namespace, aclexplode(nspacl) AS granted
    WHERE nspname = current_schema() AND grantee = pg_roles.oid AND privilege_type = 'CREATE'
) AND NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = to_regclass('_sqlx_migrations') AND relowner <> pg_roles.oid)";
/// How often a migration is tried again that did not get a lock.
const LOCK_RETRIES_MAX: usize = 4;
/// One at a time: two that change a table's rights at once are refused.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtext('turnstile_functions'));";
/// Rights ($1) to tables and functions ($2) that our role lacks, each as it would be granted. What is not there yet is passed over.
const LACKING: &str = "
SELECT format('GRANT %s ON %s TO %I', string_agg(privilege, ', ' ORDER BY place), object, current_user)
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS needed (privilege, object, place)
WHERE NOT CASE WHEN object LIKE 'FUNCTION %' THEN has_function_privilege(to_regprocedure(substr(object, 10)), privilege)
               ELSE has_table_privilege(to_regclass(object), privilege) END
GROUP BY object
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA public TO %I', current_user) WHERE current_schema() IS NULL";

/// How a database's schema stands to the one that this program knows.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// The last migration's; 0 where there was none.
    version: i64,
    /// The first of ours that is not there. One may come later than those after it.
    missing: Option<i64>,
}

/// From which version to which a schema was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    pub found: i64,
    pub left: i64,
}

fn migrations() -> impl Iterator<Item = Migration> {
    MIGRATIONS.into_iter().map(|(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, Cow::Borrowed(sql), false)
    })
}

/// What brings a schema up to this version, and no further: [`SCHEMA_VERSION`], or where an older one is wanted, in tests.
pub fn migrator(version: i64) -> Migrator {
    // sqlx 0.8 has no constructor for migrations that are in hand; its macro fills in these fields, too.
    Migrator { migrations: migrations().filter(|ours| ours.version <= version).collect(), ..Migrator::DEFAULT }
}

/// An error where an altered version of this program made the schema, or a newer one that this one cannot run with.
async fn standing(pool: &PgPool) -> Result<Standing, MigrateError> {
    let applied: Vec<(i64, Vec<u8>, String)> = match answered(sqlx::query_as(APPLIED).fetch_all(pool)).await {
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == UNDEFINED_TABLE) => vec![],
        applied => applied?,
    };
    // Each is read whole for its checksum.
    let known: Vec<Migration> = migrations().collect();
    for (version, checksum, name) in &applied {
        match known.iter().find(|ours| ours.version == *version) {
            None if *version > SCHEMA_VERSION && !name.starts_with(BREAKING) => (),
            None => return Err(MigrateError::VersionMissing(*version)),
            Some(ours) if *ours.checksum != **checksum => return Err(MigrateError::VersionMismatch(*version)),
            Some(_) => (),
        }
    }
    let version = applied.last().map_or(0, |(version, ..)| *version);
    let missing =
        known.iter().map(|ours| ours.version).find(|ours| applied.iter().all(|(version, ..)| version != ours));
    Ok(Standing { version, missing })
}

/// Brings the schema up to date, and gives the functions their rights; twice is once. Safe with many workers starting at once:
/// an advisory lock lets one do it. Fails where a newer or an altered version of this program made the schema.
pub async fn migrate(pool: &PgPool) -> Result<Migrated, MigrateError> {
    for wait in RetryPolicy::SERVER_AWAY.waits().take(LOCK_RETRIES_MAX) {
        match migrate_once(pool).await {
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) if is_locked_out(&error) => {
                tracing::info!(%error, "somebody else has a lock that the migration needs; trying again");
                tokio::time::sleep(wait).await;
            }
            migrated => return migrated,
        }
    }
    migrate_once(pool).await
}

async fn migrate_once(pool: &PgPool) -> Result<Migrated, MigrateError> {
    let found = standing(pool).await?.version;
    if found > SCHEMA_VERSION {
        return Err(MigrateError::VersionMissing(found));
    }
    let owner: Option<String> = answered(sqlx::query_scalar(OWNER).fetch_optional(pool)).await?;
    // A migration may take long, and so may waiting for another worker's: the limits of statements do not apply.
    let settings: Vec<_> = NO_LIMITS.into_iter().chain(owner.iter().map(|owner| ("role", owner.as_str()))).collect();
    let unlimited = pool_with(PgConnectOptions::clone(&pool.connect_options()), &settings, 1);
    let migrated = async {
        migrator(SCHEMA_VERSION).run(&unlimited).await?;
        if owner.is_some() {
            unlimited.execute(format!("{ONE_AT_A_TIME}{RIGHTS}").as_str()).await?;
        }
        Ok(Migrated { found, left: SCHEMA_VERSION })
    };
    let migrated = migrated.await;
    unlimited.close().await;
    migrated
}

/// Makes sure that the schema is the one that this program knows; changes it only where `may_migrate`, and only where it must.
pub(super) async fn ensure(pool: &PgPool, may_migrate: bool) -> Result<(), OpenError> {
    let found = standing(pool).await.map_err(of)?;
    if found.version > SCHEMA_VERSION {
        let version = found.version;
        tracing::warn!(
            version,
            known = SCHEMA_VERSION,
            "the database's schema is of a newer version of this program, which it can be used with; upgrade soon"
        );
    }
    let Some(missing) = found.missing else { return Ok(()) };
    let version = match found.version {
        0 => "the database has no schema of ours".to_owned(),
        version => {
            format!("the database's schema has version {version} and lacks version {missing}, which this program needs")
        }
    };
    let remedy = "run `admin migrate` as a role that may change it, such as migrations/roles.sql makes";
    match may_migrate {
        true => match migrate(pool).await.map_err(of) {
            Err(OpenError::Configuration(why)) => Err(OpenError::Configuration(format!("{version} ({why}); {remedy}"))),
            migrated => migrated.map(drop),
        },
        false => Err(OpenError::Configuration(format!("{version}; {remedy}"))),
    }
}

/// What a function's role may not do, though some function needs it.
pub(super) async fn ensure_rights(pool: &PgPool) -> Result<(), OpenError> {
    let (privileges, objects): (Vec<&str>, Vec<&str>) = rights().unzip();
    let lacking = sqlx::query_scalar(LACKING).bind(privileges).bind(objects);
    let lacking: Vec<String> = answered(lacking.fetch_all(pool)).await.map_err(|error| OpenError::of(&error))?;
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(OpenError::Configuration(format!(
            "our role lacks rights; the tables' owner gives them: {}; or `admin migrate` does, after migrations/roles.sql",
            lacking.join("; ")
        ))),
    }
}

/// Each right, and to what.
fn rights() -> impl Iterator<Item = (&'static str, &'static str)> {
    let grants = RIGHTS
        .lines()
        .filter_map(|line| line.strip_prefix("GRANT ")?.strip_suffix(" TO turnstile_functions;")?.split_once(" ON "));
    grants.flat_map(|(privileges, object)| privileges.split(", ").map(move |privilege| (privilege, object)))
}

pub(super) fn of(error: MigrateError) -> OpenError {
    if let MigrateError::VersionMissing(version) = error {
        return OpenError::Configuration(format!(
            "the database's schema has version {version}, this program knows version {SCHEMA_VERSION}: it is of a newer one, so \
             start that one instead"
        ));
    }
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return OpenError::Configuration(format!("the database's schema is not ours: {error}"));
    };
    OpenError::of(&error)
}
