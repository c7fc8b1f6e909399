//! Tables of the shared context. A migration, once released, never changes; a change is a new migration.

use crate::database::Migration;
use crate::tools::shared_context::search;

/// The schema's steps, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "shared_context_1_sessions_messages_memory",
        postgres: POSTGRES_1,
        sqlite: SQLITE_1,
    },
    Migration {
        name: "shared_context_2_tokens_audit",
        postgres: POSTGRES_2,
        sqlite: SQLITE_2,
    },
    search::BY_SENDER,
    search::BY_TIME,
    Migration {
        name: "shared_context_3_messages_by_parent",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_by_parent ON messages (session_id, parent_message_id) \
                   WHERE parent_message_id IS NOT NULL",
        sqlite: "CREATE INDEX messages_by_parent ON messages (session_id, parent_message_id) WHERE parent_message_id IS NOT NULL",
    },
    Migration {
        name: "shared_context_4_sessions_by_age",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_by_age ON sessions (created_at)",
        sqlite: "CREATE INDEX sessions_by_age ON sessions (created_at)",
    },
    Migration {
        name: "shared_context_5_memory_by_expiry",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS agent_memory_by_expiry ON agent_memory (expires_at) \
                   WHERE expires_at IS NOT NULL",
        sqlite: "CREATE INDEX agent_memory_by_expiry ON agent_memory (expires_at) WHERE expires_at IS NOT NULL",
    },
    Migration {
        name: "shared_context_6_keys_of_tokens",
        postgres: "ALTER TABLE secure_tokens ADD COLUMN key_id text",
        sqlite: "ALTER TABLE secure_tokens ADD COLUMN key_id TEXT",
    },
    Migration {
        name: "shared_context_7_sessions_active_by_age",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_active_by_age ON sessions (created_at, id) WHERE is_active",
        sqlite: "CREATE INDEX sessions_active_by_age ON sessions (created_at, id) WHERE is_active",
    },
    Migration {
        name: "shared_context_8_sessions_closed_by_age",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_closed_by_age ON sessions (created_at, id) WHERE NOT is_active",
        sqlite: "CREATE INDEX sessions_closed_by_age ON sessions (created_at, id) WHERE NOT is_active",
    },
    Migration {
        name: "shared_context_9_without_sessions_by_age",
        postgres: "DROP INDEX CONCURRENTLY IF EXISTS sessions_by_age",
        sqlite: "DROP INDEX sessions_by_age",
    },
];

// `message_count` is kept in the session's row: updating it also puts writers of one session in a row, so that the
// limit is exact and message ids grow in the order in which messages become visible.
//
// `NULLS NOT DISTINCT` makes an agent's global memory (session_id IS NULL) unique per key; a plain UNIQUE would not.
const POSTGRES_1: &str = "
CREATE TABLE sessions (
    id            text PRIMARY KEY,
    purpose       text NOT NULL,
    created_by    text NOT NULL,
    metadata      text,
    is_active     boolean NOT NULL DEFAULT true,
    message_count integer NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_by_creator ON sessions (created_by);

CREATE TABLE messages (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id        text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    sender            text NOT NULL,
    content           text NOT NULL CHECK (length(content) BETWEEN 1 AND 100000),
    visibility        text NOT NULL CHECK (visibility IN ('public', 'private', 'agent_only', 'admin_only')),
    metadata          text,
    parent_message_id bigint,
    created_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (session_id, id),
    FOREIGN KEY (session_id, parent_message_id) REFERENCES messages (session_id, id)
);

CREATE TABLE agent_memory (
    agent_id   text NOT NULL,
    session_id text REFERENCES sessions ON DELETE CASCADE,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    value      text NOT NULL,
    metadata   text,
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    UNIQUE NULLS NOT DISTINCT (agent_id, session_id, key)
);
CREATE INDEX agent_memory_by_session ON agent_memory (session_id) WHERE session_id IS NOT NULL;
";

// Indexes, beyond those of the tables' own keys:
// - `messages_by_parent`: deleting a message looks for its answers.
// - `sessions_active_by_age`, `sessions_closed_by_age`: sessions that may have to be closed, and those that may have to
//   be deleted, are old; the id tells where to go on among those of one moment. The age is that of the creation, which
//   never changes: an index on the last use would have to be changed with every message. Each session is in one of the
//   two, and a message changes neither.
// - `agent_memory_by_expiry`, `secure_tokens_by_expiry`, `audit_log_by_time`: what has ended is deleted.

// `sender_type` is the type that the sender had proven; NULL for senders who proved nothing.
//
// A token is stored as its SHA-256 only. It has 122 random bits, so that the hash cannot be turned back by guessing.
const POSTGRES_2: &str = "
ALTER TABLE messages ADD COLUMN sender_type text;

CREATE TABLE secure_tokens (
    token_hash  bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    agent_id    text NOT NULL,
    agent_type  text NOT NULL,
    permissions text NOT NULL,
    is_proven   boolean NOT NULL,
    issued_at   timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX secure_tokens_by_expiry ON secure_tokens (expires_at);

CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    agent_id   text NOT NULL,
    agent_type text,
    action     text NOT NULL,
    session_id text,
    target     text,
    outcome    text NOT NULL DEFAULT 'ok',
    times      bigint NOT NULL DEFAULT 1
);
CREATE INDEX audit_log_by_time ON audit_log (at);
";

// Times are microseconds since 1970.
const SQLITE_1: &str = "
CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    purpose       TEXT NOT NULL,
    created_by    TEXT NOT NULL,
    metadata      TEXT,
    is_active     INTEGER NOT NULL DEFAULT 1,
    message_count INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_creator ON sessions (created_by);

CREATE TABLE messages (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id        TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    sender            TEXT NOT NULL,
    content           TEXT NOT NULL CHECK (length(content) BETWEEN 1 AND 100000),
    visibility        TEXT NOT NULL CHECK (visibility IN ('public', 'private', 'agent_only', 'admin_only')),
    metadata          TEXT,
    parent_message_id INTEGER,
    created_at        INTEGER NOT NULL,
    UNIQUE (session_id, id),
    FOREIGN KEY (session_id, parent_message_id) REFERENCES messages (session_id, id)
) STRICT;

CREATE TABLE agent_memory (
    agent_id   TEXT NOT NULL,
    session_id TEXT REFERENCES sessions ON DELETE CASCADE,
    key        TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    value      TEXT NOT NULL,
    metadata   TEXT,
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE UNIQUE INDEX agent_memory_unique ON agent_memory (agent_id, ifnull(session_id, ''), key);
CREATE INDEX agent_memory_by_session ON agent_memory (session_id) WHERE session_id IS NOT NULL;
";

const SQLITE_2: &str = "
ALTER TABLE messages ADD COLUMN sender_type TEXT;

CREATE TABLE secure_tokens (
    token_hash  BLOB PRIMARY KEY CHECK (length(token_hash) = 32),
    agent_id    TEXT NOT NULL,
    agent_type  TEXT NOT NULL,
    permissions TEXT NOT NULL,
    is_proven   INTEGER NOT NULL,
    issued_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX secure_tokens_by_expiry ON secure_tokens (expires_at);

CREATE TABLE audit_log (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    agent_id   TEXT NOT NULL,
    agent_type TEXT,
    action     TEXT NOT NULL,
    session_id TEXT,
    target     TEXT,
    outcome    TEXT NOT NULL,
    times      INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX audit_log_by_time ON audit_log (at);
";
