//! What runs beside the tools for as long as the server does.

use std::sync::Arc;

use futures::future::join;

use super::audit::Refusals;
use super::retention::RetentionSettings;
use super::storage::Storage;

/// The toolset's work in the background.
pub struct Chores {
    storage: Arc<dyn Storage>,
    refusals: Refusals,
    retention: RetentionSettings,
}

impl Chores {
    pub(super) const fn new(storage: Arc<dyn Storage>, refusals: Refusals, retention: RetentionSettings) -> Self {
        Self {
            storage,
            refusals,
            retention,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        join(self.refusals.write(&*self.storage), self.retention.run(&*self.storage)).await;
    }
}
