//! What runs beside the tools for as long as the server does.

use std::sync::Arc;

use super::audit::Refusals;
use super::storage::Storage;

/// The toolset's work in the background.
pub struct Chores {
    storage: Arc<dyn Storage>,
    refusals: Refusals,
}

impl Chores {
    pub(super) const fn new(storage: Arc<dyn Storage>, refusals: Refusals) -> Self {
        Self { storage, refusals }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        self.refusals.write(&*self.storage).await;
    }
}
