//! Removal of what has ended, in Postgres.

use std::time::Duration;

use async_trait::async_trait;

use super::PostgresStorage;
use crate::tools::shared_context::retention::{Cleaned, Cleaning, Place};
use crate::tools::shared_context::storage::{Retention, StorageError};

/// Key of the advisory lock that lets one replica clean up at a time; any constant that nobody else uses. It lasts for
/// one transaction, so that a pooler in transaction mode is no problem.
const LOCK: i64 = 0x6d63_7063_6c65_616e;

/// What is true of sessions unused for `$3` seconds.
const UNUSED: &str = "updated_at < now() - make_interval(secs => $3)";

#[async_trait]
impl Retention for PostgresStorage {
    async fn clean(&self, chore: Cleaning, place: &Place, batch: i64) -> Result<Cleaned, StorageError> {
        let (age, work) = work(chore);
        // Asked for as `(SELECT ok FROM mine)`, once and before anything else: who does not have the lock looks at
        // nothing. In a join, all that could be removed would be looked at first.
        let statement = format!("WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS ok), {work}");
        let connection = self.database.connection().await?;
        let row = connection
            .query_one(
                &statement,
                &[&LOCK, &batch, &age.as_secs_f64(), &place.created_at, &place.id],
            )
            .await?;
        let rows: i64 = row.try_get(0)?;
        let next = Place {
            created_at: row.try_get(2)?,
            id: row.try_get(3)?,
        };
        Ok(Cleaned {
            rows: rows.unsigned_abs(),
            next: row.try_get::<_, bool>(1)?.then_some(next),
        })
    }
}

/// The age that a chore is about, and a step of it where this replica has the lock (`mine.ok`), `$2` rows at most. It
/// answers with the number of rows, whether there is more to do, and the place at which that begins.
fn work(chore: Cleaning) -> (Duration, String) {
    match chore {
        Cleaning::ExpiredMemory => (
            Duration::ZERO,
            deletion(
                "DELETE FROM agent_memory WHERE ctid = ANY (ARRAY( \
                   SELECT ctid FROM agent_memory WHERE (SELECT ok FROM mine) AND expires_at < now() \
                   ORDER BY expires_at LIMIT $2)) \
                 AND expires_at < now()",
            ),
        ),
        Cleaning::ExpiredTokens => (
            Duration::ZERO,
            deletion(
                "DELETE FROM secure_tokens WHERE token_hash = ANY (ARRAY( \
                   SELECT token_hash FROM secure_tokens WHERE (SELECT ok FROM mine) AND expires_at < now() \
                   ORDER BY expires_at LIMIT $2))",
            ),
        ),
        Cleaning::InactiveSessions(age) => (age, closing()),
        Cleaning::ClosedSessions(age) => (age, removal()),
        Cleaning::AuditLog(age) => (
            age,
            deletion(
                "DELETE FROM audit_log WHERE id = ANY (ARRAY( \
                   SELECT id FROM audit_log WHERE (SELECT ok FROM mine) AND at < now() - make_interval(secs => $3) \
                   ORDER BY at LIMIT $2))",
            ),
        ),
    }
}

/// Deletes what an index leads to: nothing stays that the next step would have to pass, and so it needs no place. The
/// order is that of the index, which makes sure that it is used, whatever Postgres takes the number of rows to be.
fn deletion(delete: &str) -> String {
    format!(
        "done AS ({delete} RETURNING 1) \
         SELECT count(*), count(*) = $2, $4::timestamptz, $5::text FROM done WHERE $3::float8 IS NOT NULL"
    )
}

/// The next `$2` of those sessions, in the order of their index, that are old enough to be unused.
fn looked(which: &str) -> String {
    format!(
        "looked AS MATERIALIZED ( \
           SELECT id, created_at, message_count, {UNUSED} AS unused FROM sessions \
           WHERE (SELECT ok FROM mine) AND {which} AND created_at < now() - make_interval(secs => $3) \
           AND (created_at, id) > ($4, $5) ORDER BY created_at, id LIMIT $2)"
    )
}

/// The last one of `places`, or that of this step if there is none.
fn last(places: &str) -> String {
    format!(
        "(SELECT created_at, id FROM {places} UNION ALL SELECT $4, $5 ORDER BY created_at DESC, id DESC LIMIT 1) AS last"
    )
}

fn closing() -> String {
    format!(
        "{}, \
         closed AS ( \
           UPDATE sessions SET is_active = false WHERE id = ANY (ARRAY(SELECT id FROM looked WHERE unused)) \
           AND is_active AND {UNUSED} RETURNING 1) \
         SELECT (SELECT count(*) FROM closed), (SELECT count(*) FROM looked) = $2, last.created_at, last.id FROM {}",
        looked("is_active"),
        last("looked")
    )
}

/// Sessions go whole, with their messages and their memory, as long as all that goes is no more than a batch; the step
/// ends before the first one that does not fit. If nothing went before it, it is larger than a batch, and its newest
/// messages go, an answer before what it answers, and then its memory. Fewer than a batch of them show that the session's own count is wrong, which must not
/// keep it for ever; but not if the count has changed meanwhile, for then another replica has deleted the others.
fn removal() -> String {
    format!(
        "{}, \
         sized AS ( \
           SELECT *, CASE WHEN unused THEN message_count + 1::bigint + ( \
               SELECT count(*) FROM (SELECT FROM agent_memory WHERE session_id = looked.id LIMIT $2) AS entries) \
             ELSE 0 END AS own \
           FROM looked), \
         summed AS (SELECT *, sum(own) OVER (ORDER BY created_at, id) AS size FROM sized), \
         passed AS (SELECT * FROM summed WHERE size <= $2), \
         removed AS ( \
           DELETE FROM sessions WHERE id = ANY (ARRAY(SELECT id FROM passed WHERE unused)) \
           AND NOT is_active AND {UNUSED} RETURNING message_count + 1::bigint AS size), \
         large AS MATERIALIZED ( \
           SELECT id FROM sessions WHERE (id, message_count) = \
             (SELECT id, message_count FROM summed WHERE unused AND size > $2 AND size = own) \
           AND NOT is_active AND {UNUSED} FOR UPDATE), \
         shortened AS ( \
           DELETE FROM messages WHERE id = ANY (ARRAY( \
             SELECT newest.id FROM large, \
               LATERAL (SELECT id FROM messages WHERE session_id = large.id ORDER BY id DESC LIMIT $2) AS newest)) \
           RETURNING 1), \
         forgotten AS ( \
           DELETE FROM agent_memory WHERE ctid = ANY (ARRAY( \
             SELECT entries.ctid FROM large, \
               LATERAL (SELECT ctid FROM agent_memory WHERE session_id = large.id \
                 LIMIT $2 - (SELECT count(*) FROM shortened)) AS entries)) \
           AND session_id = (SELECT id FROM large) RETURNING 1), \
         counted AS ( \
           UPDATE sessions SET message_count = \
             CASE WHEN (SELECT count(*) FROM shortened) = $2 THEN message_count - $2 ELSE 0 END \
           WHERE id = (SELECT id FROM large)) \
         SELECT (SELECT coalesce(sum(size), 0)::bigint FROM removed) + (SELECT count(*) FROM shortened) \
             + (SELECT count(*) FROM forgotten), \
           (SELECT count(*) FROM looked) = $2 OR EXISTS (SELECT FROM summed WHERE size > $2), last.created_at, last.id \
         FROM {}",
        looked("NOT is_active"),
        last("passed")
    )
}
