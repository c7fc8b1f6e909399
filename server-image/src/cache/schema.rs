//! The journal of changes, kept by triggers: whoever changes the data, through whichever program, it is noted in the
//! same transaction. A migration, once released, never changes; a change is a new migration.

use crate::database::Migration;

/// The schema's steps, in order; they come after those of the tables they watch.
pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "cache_1_journal",
    postgres: POSTGRES_1,
    sqlite: SQLITE_1,
}];

// Nothing is noted for what is new: what was not there was not cached. A new message changes its session's row, and is
// noted with that.
//
// Single rows are noted by row triggers, which are cheaper; deletions by statement triggers, because clean-up deletes
// thousands at once.
const POSTGRES_1: &str = "
CREATE TABLE cache_journal (
    position bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    tag      text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX cache_journal_by_position ON cache_journal (position);

CREATE TABLE cache_journal_state (
    identity  text NOT NULL,
    forgotten bigint NOT NULL
);
INSERT INTO cache_journal_state VALUES (gen_random_uuid()::text, 0);

CREATE FUNCTION cache_journal_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO cache_journal (tag) VALUES ('session:' || OLD.id); RETURN NULL; END $$;
CREATE FUNCTION cache_journal_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO cache_journal (tag) SELECT 'session:' || id FROM changed; RETURN NULL; END $$;
CREATE FUNCTION cache_journal_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO cache_journal (tag) SELECT DISTINCT 'session:' || session_id FROM changed; RETURN NULL; END $$;
CREATE FUNCTION cache_journal_memory_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cache_journal (tag)
    VALUES ('memory:' || OLD.agent_id || chr(31) || coalesce(OLD.session_id, '') || chr(31) || OLD.key);
    RETURN NULL;
END $$;
CREATE FUNCTION cache_journal_memory() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cache_journal (tag)
    SELECT 'memory:' || agent_id || chr(31) || coalesce(session_id, '') || chr(31) || key FROM changed;
    RETURN NULL;
END $$;

CREATE TRIGGER cache_journal_update AFTER UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION cache_journal_session();
CREATE TRIGGER cache_journal_delete AFTER DELETE ON sessions
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_journal_sessions();
CREATE TRIGGER cache_journal_update AFTER UPDATE ON messages
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_journal_messages();
CREATE TRIGGER cache_journal_delete AFTER DELETE ON messages
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_journal_messages();
CREATE TRIGGER cache_journal_update AFTER UPDATE ON agent_memory
    FOR EACH ROW EXECUTE FUNCTION cache_journal_memory_entry();
CREATE TRIGGER cache_journal_delete AFTER DELETE ON agent_memory
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_journal_memory();
";

const SQLITE_1: &str = "
CREATE TABLE cache_journal (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    tag      TEXT NOT NULL,
    at       INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;

CREATE TABLE cache_journal_state (
    identity  TEXT NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
INSERT INTO cache_journal_state VALUES (hex(randomblob(16)), 0);

CREATE TRIGGER cache_journal_sessions_update AFTER UPDATE ON sessions
BEGIN INSERT INTO cache_journal (tag) VALUES ('session:' || OLD.id); END;
CREATE TRIGGER cache_journal_sessions_delete AFTER DELETE ON sessions
BEGIN INSERT INTO cache_journal (tag) VALUES ('session:' || OLD.id); END;
CREATE TRIGGER cache_journal_messages_update AFTER UPDATE ON messages
BEGIN INSERT INTO cache_journal (tag) VALUES ('session:' || OLD.session_id); END;
CREATE TRIGGER cache_journal_messages_delete AFTER DELETE ON messages
BEGIN INSERT INTO cache_journal (tag) VALUES ('session:' || OLD.session_id); END;
CREATE TRIGGER cache_journal_memory_update AFTER UPDATE ON agent_memory
BEGIN
    INSERT INTO cache_journal (tag)
    VALUES ('memory:' || OLD.agent_id || char(31) || ifnull(OLD.session_id, '') || char(31) || OLD.key);
END;
CREATE TRIGGER cache_journal_memory_delete AFTER DELETE ON agent_memory
BEGIN
    INSERT INTO cache_journal (tag)
    VALUES ('memory:' || OLD.agent_id || char(31) || ifnull(OLD.session_id, '') || char(31) || OLD.key);
END;
";
