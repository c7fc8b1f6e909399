//! The report on this server itself, over the last minutes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::Report;
use super::scrape::Scrape;
use crate::lock;
use crate::metrics::exposition;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(30);
/// Looks that are kept: the report reaches back five minutes.
const KEPT: usize = 10;

/// A server's view of its own performance. Cheap to clone; empty until the metrics are attached, because tools that
/// report them are made before the last metric is registered.
#[derive(Debug, Clone, Default)]
pub struct Performance {
    registry: Arc<OnceLock<Arc<Registry>>>,
    looks: Arc<Mutex<VecDeque<Scrape>>>,
}

impl Performance {
    /// Gives it the metrics to read; only the first call counts.
    pub fn attach(&self, registry: Arc<Registry>) {
        // A server has one registry.
        let _ = self.registry.set(registry);
    }

    /// The report on the last five minutes, or on all since the start if that is less. `None` before the server has
    /// started.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let now = self.look()?;
        Some(Report::between(lock(&self.looks).front(), &now))
    }

    /// Looks at the metrics from time to time. Runs until it is aborted.
    pub async fn watch(self) {
        loop {
            sleep(LOOK).await;
            if let Some(look) = self.look() {
                let mut looks = lock(&self.looks);
                let look = look.sharing_names(looks.back());
                looks.push_back(look);
                if looks.len() > KEPT {
                    looks.pop_front();
                }
            }
        }
    }

    fn look(&self) -> Option<Scrape> {
        let text = exposition::openmetrics(self.registry.get()?).ok()?;
        Scrape::parse(&text).ok()
    }
}
