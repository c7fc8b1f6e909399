//! Tables of the sessions of clients up to 2025-11-25.

use crate::database::Migration;

/// The schema's steps, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "mcp_1_sessions",
        postgres: "CREATE TABLE mcp_sessions (
        id         text PRIMARY KEY,
        state      text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )",
        sqlite: "CREATE TABLE mcp_sessions (
        id         TEXT PRIMARY KEY,
        state      TEXT NOT NULL,
        created_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT",
    },
    Migration {
        name: "mcp_2_streams_and_subscriptions",
        postgres: POSTGRES_2,
        sqlite: SQLITE_2,
    },
    Migration {
        name: "mcp_4_session_owner",
        postgres: "ALTER TABLE mcp_sessions ADD COLUMN owner text",
        sqlite: "ALTER TABLE mcp_sessions ADD COLUMN owner TEXT",
    },
    Migration {
        name: "mcp_5_letters_by_age",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS mcp_letters_by_age ON mcp_letters (created_at)",
        // One replica writes no letters.
        sqlite: "",
    },
];

// Events and letters live for minutes. Unlogged tables spare the write-ahead log; a crash of Postgres empties them,
// which costs a client that reconnects at that moment the answer it waits for, as without resumable streams.
const POSTGRES_2: &str = "
ALTER TABLE mcp_sessions ADD COLUMN used_at timestamptz NOT NULL DEFAULT now(), ADD COLUMN log_level text;
CREATE INDEX mcp_sessions_by_use ON mcp_sessions (used_at);

CREATE TABLE mcp_session_subscriptions (
    session_id text NOT NULL REFERENCES mcp_sessions ON DELETE CASCADE,
    uri        text NOT NULL,
    PRIMARY KEY (session_id, uri)
);

CREATE UNLOGGED TABLE mcp_stream_events (
    stream     text NOT NULL,
    position   bigint NOT NULL,
    session_id text NOT NULL,
    message    text,
    is_last    boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, position)
);
CREATE INDEX mcp_stream_events_by_age ON mcp_stream_events (created_at);

CREATE UNLOGGED TABLE mcp_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica    text NOT NULL,
    letter     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mcp_letters_by_replica ON mcp_letters (replica, id);
";

// One replica has nobody to exchange events and letters with.
const SQLITE_2: &str = "
ALTER TABLE mcp_sessions ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mcp_sessions ADD COLUMN log_level TEXT;
UPDATE mcp_sessions SET used_at = unixepoch();
CREATE INDEX mcp_sessions_by_use ON mcp_sessions (used_at);

CREATE TABLE mcp_session_subscriptions (
    session_id TEXT NOT NULL REFERENCES mcp_sessions ON DELETE CASCADE,
    uri        TEXT NOT NULL,
    PRIMARY KEY (session_id, uri)
) STRICT;
";
