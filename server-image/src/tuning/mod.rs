//! The figures that decide how much this replica does at once: where they come from, and how the operator changes them
//! while the server runs.

pub mod control;
pub mod http;
pub mod invalidation;
pub mod signature;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Connections per replica when nobody says otherwise.
pub const DEFAULT_POOL_MAX: usize = 10;
/// Slots per replica when nobody says otherwise.
pub const DEFAULT_CONCURRENCY: usize = 32;
/// Most connections a pool may be set to. Postgres itself slows down with fewer; it guards against a typing error.
pub const POOL_MAX: usize = 1_000;
/// Most slots.
pub const CONCURRENCY_MAX: usize = 10_000;
/// Most waiting requests.
pub const QUEUE_MAX: usize = 100_000;

/// The mounted tuning file: start values, each optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TuningFile {
    /// Connection pool.
    #[serde(default)]
    pub pool: PoolTuning,
    /// Requests served at once; at least 1.
    pub concurrency: Option<usize>,
    /// Caches.
    #[serde(default)]
    pub cache: CacheTuning,
}

/// The caches' part of the tuning file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CacheTuning {
    /// Bytes of values kept in the process.
    #[serde(rename = "l1Bytes")]
    pub l1_bytes: Option<u64>,
}

/// The pool's part of the tuning file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PoolTuning {
    /// Most database connections of this replica; at least 1.
    pub max: Option<usize>,
}

/// A tuning value that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// The file cannot be read.
    #[error("cannot read the tuning file {path}: {cause}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "the tuning file {path} is not valid: {cause}; expected {{\"pool\":{{\"max\":N}},\"concurrency\":K}}",
        path = .path.display()
    )]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: serde_json::Error,
    },
    /// More memory than any machine has to spare.
    #[error("{name} must be at most {most}, not {value}")]
    TooManyBytes {
        /// Which figure, with its flag.
        name: &'static str,
        /// Largest allowed.
        most: u64,
        /// What was set.
        value: u64,
    },
    /// A figure is out of range.
    #[error("{name} must be {least} to {most}, not {value}")]
    Range {
        /// Which figure, with its flag.
        name: &'static str,
        /// Smallest allowed.
        least: usize,
        /// Largest allowed.
        most: usize,
        /// What was set.
        value: usize,
    },
}

impl TuningFile {
    /// Reads the file. Fields that this version does not know are left alone: the operator may be newer.
    ///
    /// # Errors
    /// [`TuningError`] when it is missing or malformed.
    pub fn read(path: &Path) -> Result<Self, TuningError> {
        let text = std::fs::read_to_string(path).map_err(|cause| TuningError::Read {
            path: path.to_owned(),
            cause,
        })?;
        serde_json::from_str(&text).map_err(|cause| TuningError::Parse {
            path: path.to_owned(),
            cause,
        })
    }
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Most database connections of this replica.
    pub pool_max: usize,
    /// Requests served at once.
    pub concurrency: usize,
    /// Requests that may wait.
    pub queue_max: usize,
}

/// Values set on the command line or in the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Explicit {
    /// `--pool-max`
    pub pool_max: Option<usize>,
    /// `--concurrency`
    pub concurrency: Option<usize>,
    /// `--queue-max`
    pub queue_max: Option<usize>,
}

impl Tuning {
    /// What was set explicitly wins over the file, the file over the defaults. The queue holds twice as many requests
    /// as are served at once unless set.
    ///
    /// # Errors
    /// [`TuningError::Range`] for a figure out of range.
    pub fn resolve(explicit: Explicit, file: &TuningFile) -> Result<Self, TuningError> {
        let pool_max = explicit.pool_max.or(file.pool.max).unwrap_or(DEFAULT_POOL_MAX);
        let concurrency = explicit.concurrency.or(file.concurrency).unwrap_or(DEFAULT_CONCURRENCY);
        let queue_max = explicit.queue_max.unwrap_or(2 * concurrency);
        for (name, value, least, most) in [
            ("pool max (--pool-max)", pool_max, 1, POOL_MAX),
            ("concurrency (--concurrency)", concurrency, 1, CONCURRENCY_MAX),
            ("queue max (--queue-max)", queue_max, 0, QUEUE_MAX),
        ] {
            if !(least..=most).contains(&value) {
                return Err(TuningError::Range {
                    name,
                    least,
                    most,
                    value,
                });
            }
        }
        Ok(Self {
            pool_max,
            concurrency,
            queue_max,
        })
    }
}

/// The answer of `GET` and `PUT /tuning`: what is set and what is really open.
#[derive(Debug, Serialize)]
pub struct InForce {
    /// The pod that answers; absent where nobody has told the server.
    #[serde(rename = "podUid", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The pool; absent without Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolInForce>,
    /// The caches.
    pub cache: CacheInForce,
    /// Requests served at once.
    pub concurrency: usize,
    /// Requests that may wait.
    #[serde(rename = "queueMax")]
    pub queue_max: usize,
}

/// The caches' part of [`InForce`].
#[derive(Debug, Serialize)]
pub struct CacheInForce {
    /// Capacity of the cache in the process, in bytes: less than was set while memory is short.
    #[serde(rename = "l1Bytes")]
    pub l1_bytes: u64,
    /// What it holds now, in bytes.
    #[serde(rename = "l1UsedBytes")]
    pub l1_used_bytes: u64,
}

/// The pool's part of [`InForce`].
#[derive(Debug, Serialize)]
pub struct PoolInForce {
    /// Most connections.
    pub max: usize,
    /// Connections open now; a smaller pool is reached when this is at most `max`.
    pub open: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operator budgets connections through the file; a figure that is ignored would break the budget.
    #[test]
    fn explicit_wins_over_file_wins_over_default() {
        let file: TuningFile =
            serde_json::from_str(r#"{"pool":{"max":7},"concurrency":5,"cache":{"l1Bytes":1}}"#).unwrap();
        let all = Explicit {
            pool_max: Some(2),
            concurrency: Some(3),
            queue_max: Some(0),
        };
        for (name, explicit, file, expected) in [
            (
                "defaults",
                Explicit::default(),
                TuningFile::default(),
                (DEFAULT_POOL_MAX, DEFAULT_CONCURRENCY, 2 * DEFAULT_CONCURRENCY),
            ),
            ("file", Explicit::default(), file.clone(), (7, 5, 10)),
            ("explicit", all, file, (2, 3, 0)),
        ] {
            let tuning = Tuning::resolve(explicit, &file).unwrap();
            assert_eq!(
                (tuning.pool_max, tuning.concurrency, tuning.queue_max),
                expected,
                "{name}"
            );
        }
        let zero = Explicit {
            pool_max: Some(0),
            ..Explicit::default()
        };
        assert_eq!(
            Tuning::resolve(zero, &TuningFile::default()).unwrap_err().to_string(),
            "pool max (--pool-max) must be 1 to 1000, not 0"
        );
    }

    /// A broken file must say which and what is expected, not start the server with other figures.
    #[test]
    fn a_bad_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        assert!(TuningFile::read(&path).unwrap_err().to_string().contains("tuning.json"));
        std::fs::write(&path, r#"{"pool":{"max":"many"}}"#).unwrap();
        let message = TuningFile::read(&path).unwrap_err().to_string();
        assert!(
            message.contains("tuning.json") && message.contains(r#"{"pool":{"max":N},"concurrency":K}"#),
            "{message}"
        );
    }
}
