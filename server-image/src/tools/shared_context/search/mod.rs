//! Finding messages: by likeness to a query, by sender, by time.

mod partial_ratio;
mod ranking;
mod storage;
mod text;
mod tools;

pub use partial_ratio::{Scorer, partial_ratio};
pub use ranking::{Ranked, Ranking, Wanted};
pub use storage::{BY_SENDER, BY_TIME, Found, Search, SearchQuery, SearchResults, SenderQuery, TimeQuery};
pub use text::Searched;
