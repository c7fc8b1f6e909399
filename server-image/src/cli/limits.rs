//! How often one caller may ask.

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::limits::{InvalidRates, Rate, Rates, Settings};

#[derive(Debug, Args)]
#[command(next_help_heading = "Rate limits")]
#[group(skip)]
pub(super) struct Flags {
    /// How often one caller (its name by --auth, else its address) may ask, comma-separated: CLASS=RATE or
    /// CLASS=RATE+RATE, with the classes all, auth, messages, search and memory, and rates such as 100/s, 100/min, 100/h;
    /// or the word documented, for auth=60/min+1000/h,messages=1000/min,search=100/min,memory=500/min [default: no
    /// limits].
    #[arg(long, env = "MCP_RATE_LIMITS", value_delimiter = ',')]
    rate_limits: Vec<String>,
    /// Whether a limit holds for each replica, or for all of them together, through --redis-url.
    #[arg(long, env = "MCP_RATE_LIMIT_SCOPE", default_value = "replica")]
    rate_limit_scope: Scope,
    /// Networks of proxies whose X-Forwarded-For is believed, comma-separated, such as 10.0.0.0/8 [default: none].
    /// Behind the nginx of an McpServer name the cluster's network of pods: else all clients without a name of their own
    /// share one limit.
    #[arg(long, env = "MCP_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxies: Vec<IpNet>,
    /// How often wrong keys and tokens may come from one address; beyond it they are answered with 429 instead of 401.
    /// Valid ones pass all the same.
    #[arg(long, env = "MCP_FAILED_AUTH_RATE", default_value = "20/min")]
    failed_auth_rate: Rate,
}

/// Where a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// For each replica.
    Replica,
    /// For all replicas together.
    Global,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<Settings, InvalidRates> {
        let rules = self
            .rate_limits
            .iter()
            .map(String::as_str)
            .filter(|rule| !rule.is_empty());
        Ok(Settings {
            rates: Rates::new(rules)?,
            global: self.rate_limit_scope == Scope::Global,
            trusted_proxies: self.trusted_proxies.clone(),
            failures: self.failed_auth_rate,
        })
    }
}
