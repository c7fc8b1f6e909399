//! The `McpServer` of the demo, as its status tells it.

use std::time::{Duration, Instant};

use kube::Api;
use mcpscale_crds::v1alpha1::{DecisionRecord, McpServer, McpServerStatus};
use mcpscale_tests::{Cluster, HarnessError, eventually};

use crate::{Result, narrator::Narrator};

/// The name that `examples/quickstart.yaml` gives it.
pub(crate) const NAME: &str = "quickstart";
/// How long it may take to serve: four times what is promised, for a machine that is busy.
const READY_PATIENCE: Duration = Duration::from_mins(2);

/// The server, and what was declared for it.
pub(crate) struct Server {
    api: Api<McpServer>,
    /// The latency that 95 % of the requests must not exceed.
    pub(crate) p95: Duration,
    /// How many requests a pod works on at a time.
    pub(crate) concurrency: u32,
}

impl Server {
    /// Reads what was declared.
    pub(crate) async fn read(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let api: Api<McpServer> = Api::namespaced(cluster.client(), namespace);
        let spec = api.get(NAME).await?.spec;
        let latency = spec.performance_targets.and_then(|targets| targets.latency);
        let p95 = latency
            .and_then(|latency| latency.p95)
            .ok_or("the quickstart has no p95 target to show")?;
        Ok(Self {
            api,
            p95: p95.parse()?,
            concurrency: u32::try_from(spec.server.concurrency)?,
        })
    }

    /// Its status now.
    pub(crate) async fn status(&self) -> Result<McpServerStatus> {
        Ok(self.api.get(NAME).await?.status.unwrap_or_default())
    }

    /// Waits until it serves, and says what it waits for whenever that changes.
    pub(crate) async fn ready(&self, narrator: &Narrator) -> std::result::Result<(), HarnessError> {
        let start = Instant::now();
        let mut told = String::new();
        eventually(READY_PATIENCE, "the McpServer to be Ready", async || {
            let status = self.status().await.map_err(|error| error.to_string())?;
            let Some(ready) = status.conditions.iter().find(|condition| condition.type_ == "Ready") else {
                return Err("it has no condition Ready: the operator has not seen it yet".to_owned());
            };
            let seen = format!("Ready={} {}: {}", ready.status, ready.reason, ready.message);
            if seen != told {
                narrator.say(&format!("{:5.1} s  {seen}", start.elapsed().as_secs_f64()));
                told.clone_from(&seen);
            }
            if ready.status == "True" { Ok(()) } else { Err(seen) }
        })
        .await
    }
}

/// Ready and wanted pods.
pub(crate) fn pods(status: &McpServerStatus) -> (u32, u32) {
    let wanted = status
        .scaling
        .as_ref()
        .and_then(|scaling| scaling.replicas.as_ref())
        .map(|knob| knob.desired);
    let count = |replicas: i32| u32::try_from(replicas).unwrap_or(0);
    (count(status.ready_replicas), count(wanted.unwrap_or(status.replicas)))
}

/// The decisions that were made after `last`, oldest first.
pub(crate) fn decisions_after<'a>(
    status: &'a McpServerStatus,
    last: Option<&DecisionRecord>,
) -> Vec<&'a DecisionRecord> {
    let newest_first = status.scaling.iter().flat_map(|scaling| &scaling.decisions);
    let mut new: Vec<_> = newest_first.take_while(|decision| Some(*decision) != last).collect();
    new.reverse();
    new
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use mcpscale_crds::v1alpha1::{KnobStatus, ScalingStatus};

    use super::*;

    fn decision(second: i64, from: i32, to: i32) -> DecisionRecord {
        let time = Time(jiff::Timestamp::from_second(second).unwrap());
        DecisionRecord {
            time,
            from,
            to,
            reason: "DemandRose".into(),
            message: format!("Raise {from} to {to}."),
        }
    }

    fn status(decisions: Vec<DecisionRecord>) -> McpServerStatus {
        let replicas = Some(KnobStatus {
            current: 2,
            desired: 4,
            limited_by: None,
        });
        let scaling = Some(ScalingStatus { replicas, decisions });
        McpServerStatus {
            replicas: 3,
            ready_replicas: 2,
            scaling,
            ..McpServerStatus::default()
        }
    }

    /// Each decision is told once, in order: a missed one would leave a change of replicas unexplained.
    #[test]
    fn decisions_are_told_once_and_oldest_first() {
        let (first, second, third) = (decision(1, 1, 2), decision(2, 2, 4), decision(9, 4, 1));
        let status = status(vec![third.clone(), second.clone(), first.clone()]);
        let cases = [
            ("nothing told yet", None, vec![&first, &second, &third]),
            ("the first told", Some(&first), vec![&second, &third]),
            ("all told", Some(&third), vec![]),
        ];
        for (name, last, expected) in cases {
            assert_eq!(decisions_after(&status, last), expected, "{name}");
        }
    }

    #[test]
    fn wanted_pods_are_those_the_scaler_wants_or_else_those_there_are() {
        let scaled = status(vec![]);
        let unscaled = McpServerStatus {
            scaling: None,
            ..scaled.clone()
        };
        assert_eq!((pods(&scaled), pods(&unscaled)), ((2, 4), (2, 3)));
    }
}
