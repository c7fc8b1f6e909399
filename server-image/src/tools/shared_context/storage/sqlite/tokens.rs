//! Agents' tokens and the audit log in a SQLite file.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::{Audited, SqliteStorage, audit, micros, now, time};
use crate::tools::shared_context::audit::Refusal;
use crate::tools::shared_context::model::{NewToken, TokenClaims, TokenHash};
use crate::tools::shared_context::storage::{
    AuditLog, NOBODY, StorageError, StoredTokens, permissions_from_text, permissions_to_text,
};

const CLAIMS: &str = "agent_id, agent_type, permissions, is_proven, key_id, issued_at, expires_at";

#[async_trait]
impl StoredTokens for SqliteStorage {
    async fn issue_token(
        &self,
        hash: TokenHash,
        token: NewToken,
        lifetime: Duration,
    ) -> Result<TokenClaims, StorageError> {
        self.database
            .write(move |transaction| insert(transaction, hash, token, lifetime, "authenticate_agent"))
            .await
    }

    async fn token_claims(&self, hash: TokenHash) -> Result<Option<TokenClaims>, StorageError> {
        self.database
            .read(move |transaction| only_claims(transaction, &select(), hash))
            .await
    }

    async fn replace_token(
        &self,
        old: TokenHash,
        new: TokenHash,
        lifetime: Duration,
    ) -> Result<Option<TokenClaims>, StorageError> {
        self.database
            .write(move |transaction| {
                let Some(ended) = only_claims(transaction, &end(), old)? else {
                    return Ok(None);
                };
                let token = NewToken {
                    agent_id: ended.agent_id,
                    agent_type: ended.agent_type,
                    permissions: ended.permissions,
                    is_proven: ended.is_proven,
                    key_id: ended.key_id,
                };
                insert(transaction, new, token, lifetime, "refresh_token").map(Some)
            })
            .await
    }
}

#[async_trait]
impl AuditLog for SqliteStorage {
    async fn audit_refusals(&self, refusals: BTreeMap<Refusal, i64>) -> Result<(), StorageError> {
        self.database
            .write(move |transaction| {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO audit_log (at, agent_id, target, action, outcome, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?;
                for (refusal, times) in refusals {
                    let agent_id = refusal.agent_id.as_deref().unwrap_or(NOBODY);
                    let Refusal {
                        claimed, action, code, ..
                    } = &refusal;
                    insert.execute(params![now(), agent_id, claimed, action, code, times])?;
                }
                Ok(())
            })
            .await
    }
}

pub(super) fn select() -> String {
    format!("SELECT {CLAIMS} FROM secure_tokens WHERE token_hash = ?1 AND expires_at > ?2")
}

pub(super) fn end() -> String {
    format!("DELETE FROM secure_tokens WHERE token_hash = ?1 AND expires_at > ?2 RETURNING {CLAIMS}")
}

pub(super) fn insert(
    connection: &Connection,
    hash: TokenHash,
    token: NewToken,
    lifetime: Duration,
    action: &'static str,
) -> Result<TokenClaims, StorageError> {
    let now = now();
    let expires_at = now.saturating_add(micros(lifetime));
    let permissions = permissions_to_text(&token.permissions)?;
    connection
        .prepare_cached(&format!(
            "INSERT INTO secure_tokens (token_hash, {CLAIMS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
        ))?
        .execute(params![
            hash.0,
            token.agent_id,
            token.agent_type,
            permissions,
            token.is_proven,
            token.key_id,
            now,
            expires_at
        ])?;
    let line = Audited {
        agent_id: &token.agent_id,
        agent_type: Some(&token.agent_type),
        action,
        session_id: None,
        target: Some(&permissions),
    };
    audit(connection, now, &line)?;
    Ok(TokenClaims {
        agent_id: token.agent_id,
        agent_type: token.agent_type,
        permissions: token.permissions,
        is_proven: token.is_proven,
        key_id: token.key_id,
        issued_at: time(now),
        expires_at: time(expires_at),
    })
}

/// The claims of the one row that `sql` gives for `hash` now.
pub(super) fn only_claims(
    connection: &Connection,
    sql: &str,
    hash: TokenHash,
) -> Result<Option<TokenClaims>, StorageError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query_and_then(params![hash.0, now()], claims)?;
    rows.next().transpose()
}

fn claims(row: &Row<'_>) -> Result<TokenClaims, StorageError> {
    Ok(TokenClaims {
        agent_id: row.get(0)?,
        agent_type: row.get(1)?,
        permissions: permissions_from_text(&row.get::<_, String>(2)?)?,
        is_proven: row.get(3)?,
        key_id: row.get(4)?,
        issued_at: time(row.get(5)?),
        expires_at: time(row.get(6)?),
    })
}
