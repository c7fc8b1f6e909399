//! Tables of the shared context. A migration, once released, never changes; a change is a new migration.

use crate::database::Migration;

/// The schema's steps, in order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "shared_context_1_sessions_messages_memory",
    postgres: POSTGRES_1,
    sqlite: SQLITE_1,
}];

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
