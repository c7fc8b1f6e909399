//! What may be wrong with a server, and what proves it.

use std::fmt;

use serde::Serialize;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Waiting for a slot.
    Queueing,
    /// CPU time.
    Cpu,
    /// Waiting for a connection to the database.
    Pool,
    /// The database itself.
    Database,
    /// The caches.
    Cache,
    /// Verifying credentials.
    Authentication,
    /// Memory.
    Memory,
    /// Requests that failed or were refused.
    Errors,
    /// Time from arrival to answer.
    Latency,
}

impl Area {
    /// Its name in a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queueing => "slots",
            Self::Cpu => "CPU",
            Self::Pool => "connection pool",
            Self::Database => "database",
            Self::Cache => "cache",
            Self::Authentication => "authentication",
            Self::Memory => "memory",
            Self::Errors => "errors",
            Self::Latency => "latency",
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How bad a finding is. The worst sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Callers suffer, or soon will.
    Critical,
    /// Better dealt with before it is critical.
    Warning,
}

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A share from 0 to 1, written in percent.
    Ratio,
    /// Seconds, written in milliseconds.
    Seconds,
}

impl Unit {
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Ratio if value * 100.0 < 10.0 => format!("{:.1} %", value * 100.0),
            Self::Ratio => format!("{:.0} %", value * 100.0),
            Self::Seconds if value < 0.01 => format!("{:.1} ms", value * 1000.0),
            Self::Seconds => format!("{:.0} ms", value * 1000.0),
        }
    }
}

/// The figure that proves a finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// How the figure is computed from the metrics.
    pub figure: &'static str,
    /// Its value.
    pub value: f64,
    /// Unit of `value` and `threshold`.
    pub unit: Unit,
    /// From here on it is a finding.
    pub threshold: f64,
    /// Who says so.
    pub source: &'static str,
}

impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, threshold) = (self.unit.show(self.value), self.unit.show(self.threshold));
        write!(
            formatter,
            "{} = {value}, a finding from {threshold} on ({})",
            self.figure, self.source
        )
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub problem: String,
    /// The figure that proves it.
    pub evidence: Evidence,
    /// What to do.
    pub recommendation: String,
}
