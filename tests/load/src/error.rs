//! What can keep a run from starting. What goes wrong during a run is counted in the report instead.

use std::time::Duration;

use thiserror::Error;

/// A plan that cannot be run as it stands.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A phase that is not written as documented, or has an impossible value.
    #[error(
        "phase `{phase}`: {why}. Write constant:RATE:DURATION, step:RATE,RATE,…:DURATION-OF-EACH or \
         ramp:FROM..TO:DURATION, for example constant:50:60s, step:10,20,40:30s, ramp:10..100:60s"
    )]
    Phase {
        /// The phase as it was given.
        phase: String,
        /// What is wrong with it.
        why: String,
    },
    /// No phase was given.
    #[error("the plan has no phase: say how much load for how long, for example --phase constant:50:60s")]
    NoPhase,
    /// No tool was given, or all weights are 0.
    #[error("the plan calls no tool: give --tool NAME or --mix shared-context, with a weight above 0")]
    NoTool,
    /// A tool name that cannot be sent in the `Mcp-Name` header.
    #[error("tool name `{0}`: MCP tool names are 1 to 128 of A-Z a-z 0-9 _ - . and /")]
    ToolName(String),
    /// Arguments that are not a JSON object.
    #[error("the arguments of tool `{tool}` must be a JSON object such as {{\"io_ms\":20}}: {why}")]
    Arguments {
        /// The tool they belong to.
        tool: String,
        /// What is wrong with them.
        why: String,
    },
    /// The plan runs longer than allowed.
    #[error("the phases last {duration:?} together, more than the {limit:?} a run may take: split the run")]
    TooLong {
        /// What was asked for.
        duration: Duration,
        /// The bound.
        limit: Duration,
    },
    /// The plan holds more requests than allowed.
    #[error(
        "the phases hold {arrivals:.0} requests, more than the {limit:.0} a run may send: lower the rates or split the run"
    )]
    TooMany {
        /// What was asked for.
        arrivals: f64,
        /// The bound.
        limit: f64,
    },
    /// A setting that makes no sense.
    #[error("{setting} is {value}: {what_to_do}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        what_to_do: &'static str,
    },
    /// A URL that cannot be used.
    #[error("target `{url}`: {why}")]
    Target {
        /// The URL as it was given.
        url: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
}

impl PlanError {
    pub(crate) fn phase(phase: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Phase {
            phase: phase.into(),
            why: why.into(),
        }
    }

    pub(crate) fn target(url: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Target {
            url: url.into(),
            why: why.into(),
        }
    }
}

/// A run that could not start. No load was sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan itself is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The server did not answer a call that prepares the run.
    #[error("preparing the run, {step} failed: {why}. No load was sent; check that an MCP server answers at the URL")]
    Prepare {
        /// Which call.
        step: String,
        /// What came back.
        why: String,
    },
    /// The server does not offer a tool of the plan.
    #[error(
        "the server offers no tool `{tool}`; it offers: {offered}. (simulate_work needs the server's --fixtures load)"
    )]
    NoSuchTool {
        /// The missing tool.
        tool: String,
        /// What there is.
        offered: String,
    },
    /// The run was cancelled before it started.
    #[error("cancelled while preparing the run; no load was sent")]
    Cancelled,
    /// The thread that paces the arrivals ended early: a defect of the load tester.
    #[error("the pacing thread ended early: {0}")]
    Pacer(String),
}
