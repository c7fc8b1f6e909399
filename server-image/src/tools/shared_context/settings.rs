//! What a person sets of the toolset.

use std::time::Duration;

use super::api_keys::ApiKeys;
use super::limits::Quotas;
use super::retention::RetentionSettings;

/// How the toolset behaves.
#[derive(Debug, Clone)]
pub struct SharedContextSettings {
    /// Who may get tokens; without keys, anybody may be any agent.
    pub api_keys: ApiKeys,
    /// Life of a token.
    pub token_lifetime: Duration,
    /// For how long things are kept.
    pub retention: RetentionSettings,
    /// How much sessions and agents may hold.
    pub quotas: Quotas,
}

impl Default for SharedContextSettings {
    /// An open server with the documented times and limits.
    fn default() -> Self {
        Self {
            api_keys: ApiKeys::default(),
            token_lifetime: Duration::from_hours(24),
            retention: RetentionSettings::default(),
            quotas: Quotas::default(),
        }
    }
}
