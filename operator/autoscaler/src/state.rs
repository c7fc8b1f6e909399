//! What is remembered between two ticks.

use serde::{Deserialize, Serialize};

/// The memory of [`crate::decide`]. Opaque to callers: keep what one call returns for the next. A new one (after a
/// restart of the operator) only means that nothing is lowered for one whole window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {}
