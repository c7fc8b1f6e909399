//! How many agents use the server.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::at_scrape;
use crate::lock;

/// An agent counts as active for this long after its last call.
const ACTIVE: Duration = Duration::from_mins(5);
/// Agents that are told apart; beyond that the figure stands still. About 3 MB.
const MOST: usize = 100_000;

/// The agents that called lately. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ActiveAgents {
    /// Hashes of ids, which are shorter than ids, and when each called last.
    seen: Arc<Mutex<HashMap<u64, Instant>>>,
    hasher: RandomState,
}

impl ActiveAgents {
    /// Registers `mcp_active_agents`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let agents = Self::default();
        let counted = agents.clone();
        at_scrape::gauge(
            registry,
            "mcp_active_agents",
            "Agents that called this replica in the last five minutes",
            move || u32::try_from(counted.count(Instant::now())).ok().map(f64::from),
        );
        agents
    }

    /// Notes a call of `agent_id`.
    pub fn called(&self, agent_id: &str) {
        self.called_at(agent_id, Instant::now());
    }

    fn called_at(&self, agent_id: &str, now: Instant) {
        let agent = self.hasher.hash_one(agent_id);
        let mut seen = lock(&self.seen);
        if seen.len() < MOST || seen.contains_key(&agent) {
            seen.insert(agent, now);
        }
    }

    fn count(&self, now: Instant) -> usize {
        let mut seen = lock(&self.seen);
        seen.retain(|_, last| now.saturating_duration_since(*last) < ACTIVE);
        seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure that only ever grows says nothing about now.
    #[test]
    fn agents_that_fall_silent_are_not_counted() {
        let agents = ActiveAgents::new(&mut Registry::default());
        let start = Instant::now();
        agents.called_at("a", start);
        agents.called_at("b", start);
        agents.called_at("a", start + ACTIVE / 2);
        assert_eq!(agents.count(start + ACTIVE / 2), 2);
        assert_eq!(agents.count(start + ACTIVE), 1, "only a called since");
        assert_eq!(agents.count(start + ACTIVE * 2), 0);
    }
}
