//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mcp_load::{Arrivals, Call, Era, Mix, Phase, Plan, PlanError, parse_duration};
use serde_json::{Value, json};

/// Open-loop load tester for MCP servers.
///
/// Requests are sent when they are due, never waiting for earlier answers, and latency counts from when they were due.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send load and report what came back.
    ///
    /// Exit status: 0 all requests answered or shed; 1 the run could not start; 2 wrong arguments; 3 requests failed;
    /// 4 the load tester could not keep to the plan, so the figures must not be trusted.
    Run(Box<RunArguments>),
}

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// The MCP endpoint, http://HOST:PORT/PATH. Must be a loopback or private address.
    #[arg(long)]
    url: String,

    /// Protocol era of the virtual clients: 2026-07-28, up to 2025-11-25 (with sessions), or half of each.
    #[arg(long, value_enum, default_value = "modern")]
    era: EraName,

    /// A part of the load profile; repeat for more. constant:RATE:DURATION, step:RATE,RATE,…:DURATION-OF-EACH or
    /// ramp:FROM..TO:DURATION, rates in requests per second.
    #[arg(long = "phase", required = true, value_name = "PHASE")]
    phases: Vec<Phase>,

    /// A tool to call, NAME or NAME=WEIGHT; repeat for more.
    #[arg(long = "tool", value_name = "NAME[=WEIGHT]", required_unless_present = "mix")]
    tools: Vec<String>,

    /// The arguments of a tool, a JSON object: the first for the first --tool, and so on. Default {}.
    #[arg(long, value_name = "JSON", requires = "tools")]
    arguments: Vec<String>,

    /// A ready mix of tools instead of --tool.
    #[arg(long, value_enum, conflicts_with = "tools")]
    mix: Option<MixName>,

    /// Spacing of the requests: even, or random as of independent users.
    #[arg(long, value_enum, default_value = "constant")]
    arrivals: ArrivalsName,

    /// Seed of the random choices; the same seed sends the same calls at the same times.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// A request without a complete answer after this long has failed.
    #[arg(long, value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,

    /// Most unanswered requests at once; those due above it are counted as unsent and make the run invalid.
    #[arg(long, default_value_t = 2000)]
    max_in_flight: usize,

    /// How many legacy sessions the requests share.
    #[arg(long, default_value_t = 50)]
    sessions: usize,

    /// Use at least this many connections in turn, for balancers that work per connection.
    #[arg(long, default_value_t = 8)]
    connections: usize,

    /// The run is invalid when 1 % of the requests are sent later than this.
    #[arg(long, value_parser = parse_duration, default_value = "50ms")]
    max_lag: Duration,

    /// Allow a target that is neither loopback nor private. Only for servers you run.
    #[arg(long)]
    allow_any_host: bool,

    /// Write the whole report as JSON to this file; - is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<String>,

    /// Write a line per second to standard output while the run goes on.
    #[arg(long, value_enum)]
    pub(crate) live: Option<Live>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EraName {
    Modern,
    Legacy,
    Mixed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MixName {
    /// Sessions, messages and memory, mostly reading: what agents that share a context do.
    SharedContext,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalsName {
    Constant,
    Poisson,
}

/// A form of output during the run.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Live {
    /// One JSON object per line.
    JsonLines,
}

impl RunArguments {
    /// Refuses two streams of data on standard output.
    pub(crate) fn check_outputs(&self) -> Result<(), String> {
        if self.live.is_some() && self.json.as_deref() == Some("-") {
            return Err("--live and --json - would both write to standard output: give --json a file".to_owned());
        }
        Ok(())
    }

    /// Whether standard output is for programs, so that words for people go to standard error.
    pub(crate) fn data_on_stdout(&self) -> bool {
        self.live.is_some() || self.json.as_deref() == Some("-")
    }

    pub(crate) fn plan(&self) -> Result<Plan, PlanError> {
        let mix = match self.mix {
            Some(MixName::SharedContext) => Mix::shared_context(),
            None => self.mix_of_tools()?,
        };
        let plan = Plan {
            era: match self.era {
                EraName::Modern => Era::Modern,
                EraName::Legacy => Era::Legacy,
                EraName::Mixed => Era::Mixed,
            },
            arrivals: match self.arrivals {
                ArrivalsName::Constant => Arrivals::Constant,
                ArrivalsName::Poisson => Arrivals::Poisson,
            },
            seed: self.seed,
            timeout: self.timeout,
            max_in_flight: self.max_in_flight,
            sessions: self.sessions,
            connections: self.connections,
            max_lag: self.max_lag,
            allow_any_host: self.allow_any_host,
            ..Plan::new(&self.url, mix, self.phases.as_slice())
        };
        plan.validate()?;
        Ok(plan)
    }

    fn mix_of_tools(&self) -> Result<Mix, PlanError> {
        if self.arguments.len() > self.tools.len() {
            return Err(PlanError::Arguments {
                tool: self.tools.last().cloned().unwrap_or_default(),
                why: format!("{} --arguments for {} --tool", self.arguments.len(), self.tools.len()),
            });
        }
        let texts = self.arguments.iter().map(Some).chain(std::iter::repeat(None));
        self.tools
            .iter()
            .zip(texts)
            .try_fold(Mix::default(), |mix, (tool, text)| {
                let (name, weight) = match tool.split_once('=') {
                    None => (tool.as_str(), 1),
                    Some((name, weight)) => (name, weight.parse().map_err(|_| PlanError::ToolName(tool.clone()))?),
                };
                let arguments: Value = match text {
                    None => json!({}),
                    Some(text) => serde_json::from_str(text).map_err(|error| PlanError::Arguments {
                        tool: name.to_owned(),
                        why: error.to_string(),
                    })?,
                };
                Ok(mix.with(
                    Call::Tool {
                        name: name.to_owned(),
                        arguments,
                    },
                    weight,
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["mcp-load", "run", "--url", "http://127.0.0.1/mcp"]
            .into_iter()
            .chain(line.split(' '));
        let Command::Run(arguments) = Arguments::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .command;
        arguments.check_outputs()?;
        arguments.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn phases_and_weighted_tools_are_read_in_their_order() {
        let plan = plan(
            "--phase constant:50:60s --phase ramp:10..100:60s --tool simulate_work=3 --tool echo \
             --arguments {\"io_ms\":20} --era mixed --arrivals poisson --timeout 2s",
        )
        .unwrap();
        let minute = Duration::from_mins(1);
        assert_eq!(
            plan.phases,
            [Phase::constant(50.0, minute), Phase::ramp(10.0, 100.0, minute)]
        );
        let tool = |name: &str, arguments| Call::Tool {
            name: name.to_owned(),
            arguments,
        };
        let expected = Mix::default()
            .with(tool("simulate_work", json!({"io_ms": 20})), 3)
            .with(tool("echo", json!({})), 1);
        assert_eq!(plan.mix, expected);
        assert_eq!(
            (plan.era, plan.arrivals, plan.timeout),
            (Era::Mixed, Arrivals::Poisson, Duration::from_secs(2))
        );
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        let cases = [
            ("no phase", "--tool echo", "--phase"),
            ("no tool", "--phase constant:1:1s", "--tool"),
            (
                "tool and mix",
                "--phase constant:1:1s --tool a --mix shared-context",
                "cannot be used with",
            ),
            (
                "a phase that is none",
                "--phase 50:60s --tool echo",
                "constant:RATE:DURATION",
            ),
            (
                "arguments that are no object",
                "--phase constant:1:1s --tool echo --arguments [1]",
                "JSON object",
            ),
            (
                "arguments that are no JSON",
                "--phase constant:1:1s --tool echo --arguments {x",
                "JSON object",
            ),
            (
                "too many arguments",
                "--phase constant:1:1s --tool echo --arguments {} --arguments {}",
                "2 --arguments",
            ),
            (
                "two streams",
                "--phase constant:1:1s --tool echo --json - --live json-lines",
                "give --json a file",
            ),
            ("a weight that is none", "--phase constant:1:1s --tool echo=x", "echo=x"),
        ];
        for (name, line, expected) in cases {
            let message = plan(line).unwrap_err();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}
