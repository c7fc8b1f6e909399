//! Finding messages: by likeness to a query, by sender, by time.

mod partial_ratio;

pub use partial_ratio::{Scorer, partial_ratio};
