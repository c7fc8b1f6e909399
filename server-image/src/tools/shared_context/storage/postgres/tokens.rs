//! Agents' tokens and the audit log in Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;

use super::PostgresStorage;
use crate::tools::shared_context::audit::Refusal;
use crate::tools::shared_context::model::{NewToken, TokenClaims, TokenHash};
use crate::tools::shared_context::storage::{
    AuditLog, NOBODY, StorageError, StoredTokens, permissions_from_text, permissions_to_text,
};

const CLAIMS: &str = "agent_id, agent_type, permissions, is_proven, key_id, issued_at, expires_at";

#[async_trait]
impl StoredTokens for PostgresStorage {
    async fn issue_token(
        &self,
        hash: TokenHash,
        token: NewToken,
        lifetime: Duration,
    ) -> Result<TokenClaims, StorageError> {
        let insert = format!(
            "WITH issued AS ( \
               INSERT INTO secure_tokens (token_hash, agent_id, agent_type, permissions, is_proven, key_id, expires_at) \
               VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)) RETURNING {CLAIMS}), \
             audited AS ( \
               INSERT INTO audit_log (agent_id, agent_type, action, target) \
               SELECT agent_id, agent_type, 'authenticate_agent', permissions FROM issued) \
             SELECT {CLAIMS} FROM issued"
        );
        let connection = self.database.connection().await?;
        let row = connection
            .query_one(
                &insert,
                &[
                    &&hash.0[..],
                    &token.agent_id,
                    &token.agent_type,
                    &permissions_to_text(&token.permissions)?,
                    &token.is_proven,
                    &token.key_id,
                    &lifetime.as_secs_f64(),
                ],
            )
            .await?;
        claims(&row)
    }

    async fn token_claims(&self, hash: TokenHash) -> Result<Option<TokenClaims>, StorageError> {
        let select = format!("SELECT {CLAIMS} FROM secure_tokens WHERE token_hash = $1 AND expires_at > now()");
        let connection = self.database.connection().await?;
        let row = connection.query_opt(&select, &[&&hash.0[..]]).await?;
        row.as_ref().map(claims).transpose()
    }

    async fn replace_token(
        &self,
        old: TokenHash,
        new: TokenHash,
        lifetime: Duration,
    ) -> Result<Option<TokenClaims>, StorageError> {
        let replace = format!(
            "WITH ended AS ( \
               DELETE FROM secure_tokens WHERE token_hash = $1 AND expires_at > now() RETURNING {CLAIMS}), \
             issued AS ( \
               INSERT INTO secure_tokens (token_hash, agent_id, agent_type, permissions, is_proven, key_id, expires_at) \
               SELECT $2, agent_id, agent_type, permissions, is_proven, key_id, now() + make_interval(secs => $3) FROM ended \
               RETURNING {CLAIMS}), \
             audited AS ( \
               INSERT INTO audit_log (agent_id, agent_type, action, target) \
               SELECT agent_id, agent_type, 'refresh_token', permissions FROM issued) \
             SELECT {CLAIMS} FROM issued"
        );
        let connection = self.database.connection().await?;
        let row = connection
            .query_opt(&replace, &[&&old.0[..], &&new.0[..], &lifetime.as_secs_f64()])
            .await?;
        row.as_ref().map(claims).transpose()
    }
}

#[async_trait]
impl AuditLog for PostgresStorage {
    async fn audit_refusals(&self, refusals: BTreeMap<Refusal, i64>) -> Result<(), StorageError> {
        let agents: Vec<&str> = refusals
            .keys()
            .map(|refusal| refusal.agent_id.as_deref().unwrap_or(NOBODY))
            .collect();
        let claimed: Vec<Option<&str>> = refusals.keys().map(|refusal| refusal.claimed.as_deref()).collect();
        let actions: Vec<&str> = refusals.keys().map(|refusal| refusal.action).collect();
        let codes: Vec<&str> = refusals.keys().map(|refusal| refusal.code).collect();
        let times: Vec<i64> = refusals.values().copied().collect();
        let connection = self.database.connection().await?;
        connection
            .query(
                "INSERT INTO audit_log (agent_id, target, action, outcome, times) \
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])",
                &[&agents, &claimed, &actions, &codes, &times],
            )
            .await?;
        Ok(())
    }
}

fn claims(row: &Row) -> Result<TokenClaims, StorageError> {
    Ok(TokenClaims {
        agent_id: row.try_get(0)?,
        agent_type: row.try_get(1)?,
        permissions: permissions_from_text(row.try_get(2)?)?,
        is_proven: row.try_get(3)?,
        key_id: row.try_get(4)?,
        issued_at: row.try_get(5)?,
        expires_at: row.try_get(6)?,
    })
}
