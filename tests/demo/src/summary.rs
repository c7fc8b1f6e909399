//! What the demo has shown, and whether that is what it is to show.

use std::{fmt::Write, time::Duration};

use mcpscale_crds::v1alpha1::DecisionRecord;

/// For how many seconds pods that have become ready may still get too little of the load: nginx reads their addresses
/// anew every few seconds, and what an overloaded pod has queued stays with it.
const SPREADING_SECONDS: f64 = 10.0;

/// Pods that were ready at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Seconds since the load began.
    pub(crate) second: f64,
    /// Server pods that served then.
    pub(crate) ready: u32,
}

/// Requests that were turned away in one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shed {
    /// Seconds since the load began.
    pub(crate) second: f64,
    /// How many.
    pub(crate) requests: u64,
    /// How many slots all requests of that second would keep busy, by Little's law: rate × time of one call.
    pub(crate) busy_slots: f64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) offered: u64,
    pub(crate) answered: u64,
    pub(crate) shed: Vec<Shed>,
    pub(crate) failed: u64,
    /// Each kind of failure, in a sentence.
    pub(crate) failures: Vec<String>,
    /// Why the load tester's figures may be off.
    pub(crate) unsure: Vec<String>,
    /// Over the whole run.
    pub(crate) p95: Option<Duration>,
    /// At the end of the peak, when replicas have followed.
    pub(crate) p95_at_peak: Option<Duration>,
    /// What p95 must not exceed.
    pub(crate) target: Duration,
    /// Requests that one pod works on at a time.
    pub(crate) slots: u32,
    /// In order of time.
    pub(crate) samples: Vec<Sample>,
    /// Oldest first.
    pub(crate) decisions: Vec<DecisionRecord>,
}

impl Facts {
    /// Everything that is not as it should be; nothing when the loop works.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed > 0 {
            problems.push(format!("{} requests failed: {}", self.failed, self.failures.join("; ")));
        }
        if let Some(shed) = self.shed.iter().find(|shed| !self.overloaded(shed)) {
            problems.push(format!(
                "in second {:.0} {} requests were shed though the ready pods had slots for all",
                shed.second, shed.requests
            ));
        }
        let (first, most, last) = self.pods();
        if most <= first {
            problems.push(format!("replicas never rose: {first} at first, {most} at most"));
        } else if last >= most {
            problems.push(format!("replicas never fell: {most} at most, {last} in the end"));
        }
        match self.p95_at_peak {
            Some(p95) if p95 <= self.target => {}
            Some(p95) => problems.push(format!(
                "at the end of the peak p95 was {p95:.0?}, above {:.0?}",
                self.target
            )),
            None => problems.push("at the end of the peak nothing was answered".to_owned()),
        }
        problems
    }

    /// The figures, a line each.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let shed: u64 = self.shed.iter().map(|shed| shed.requests).sum();
        write!(
            text,
            "requests   {} sent, {} answered, {} failed, {shed} shed",
            self.offered, self.answered, self.failed
        )?;
        if let (Some(first), Some(last)) = (self.shed.first(), self.shed.last()) {
            let all = if self.shed.iter().all(|shed| self.overloaded(shed)) {
                ""
            } else {
                " not"
            };
            write!(
                text,
                " (503 with Retry-After, seconds {:.0} to {:.0}:",
                first.second, last.second
            )?;
            write!(
                text,
                "{all} only while the load was more than the ready pods had slots for)"
            )?;
        }
        let milliseconds = |p95: Option<Duration>| p95.map_or("-".to_owned(), |p95| format!("{} ms", p95.as_millis()));
        let (overall, peak, target) = (
            milliseconds(self.p95),
            milliseconds(self.p95_at_peak),
            self.target.as_millis(),
        );
        writeln!(
            text,
            "\np95        {overall} over all, {peak} at the end of the peak; the target is {target} ms"
        )?;
        let (first, most, last) = self.pods();
        writeln!(text, "pods       {first} at first, {most} at most, {last} in the end")?;
        for (number, decision) in self.decisions.iter().enumerate() {
            writeln!(
                text,
                "{:<10} {}",
                if number == 0 { "decisions" } else { "" },
                decision.message
            )?;
        }
        for reason in &self.unsure {
            writeln!(text, "unsure     {reason}")?;
        }
        Ok(())
    }

    /// Ready pods at first, at most and in the end.
    fn pods(&self) -> (u32, u32, u32) {
        let ready = || self.samples.iter().map(|sample| sample.ready);
        (
            ready().next().unwrap_or(0),
            ready().max().unwrap_or(0),
            ready().next_back().unwrap_or(0),
        )
    }

    /// Whether the load was more than the ready pods had slots for then, or a moment before.
    fn overloaded(&self, shed: &Shed) -> bool {
        let moment = shed.second - SPREADING_SECONDS..=shed.second + 1.0;
        let ready = self
            .samples
            .iter()
            .filter(|sample| moment.contains(&sample.second))
            .map(|sample| sample.ready);
        ready
            .min()
            .is_none_or(|fewest| f64::from(fewest * self.slots) < shed.busy_slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run as it should be: one pod, four from second 40 to 120, one again; shed while one pod had ten slots of work.
    fn good() -> Facts {
        let ready = |second: u32| if (40..120).contains(&second) { 4 } else { 1 };
        Facts {
            offered: 1000,
            answered: 990,
            shed: vec![Shed {
                second: 41.0,
                requests: 10,
                busy_slots: 10.0,
            }],
            failed: 0,
            failures: Vec::new(),
            unsure: Vec::new(),
            p95: Some(Duration::from_millis(80)),
            p95_at_peak: Some(Duration::from_millis(65)),
            target: Duration::from_millis(100),
            slots: 4,
            samples: (0..180)
                .map(|second| Sample {
                    second: f64::from(second),
                    ready: ready(second),
                })
                .collect(),
            decisions: Vec::new(),
        }
    }

    /// A demo that says "it works" when it does not would be worse than none.
    #[test]
    fn every_way_in_which_the_loop_can_fail_is_a_problem() {
        let constant = |ready| {
            good()
                .samples
                .iter()
                .map(|sample| Sample { ready, ..*sample })
                .collect::<Vec<_>>()
        };
        let shed = |second, busy_slots| {
            vec![Shed {
                second,
                requests: 5,
                busy_slots,
            }]
        };
        let cases = [
            ("as it should be", good(), None),
            (
                "failed",
                Facts {
                    failed: 2,
                    failures: vec!["2 × timeout".into()],
                    ..good()
                },
                Some("2 × timeout"),
            ),
            (
                "never rose",
                Facts {
                    samples: constant(1),
                    shed: vec![],
                    ..good()
                },
                Some("never rose"),
            ),
            (
                "never fell",
                Facts {
                    samples: good().samples[..100].to_vec(),
                    ..good()
                },
                Some("never fell"),
            ),
            (
                "slow",
                Facts {
                    p95_at_peak: Some(Duration::from_millis(101)),
                    ..good()
                },
                Some("was 101ms, above 100ms"),
            ),
            (
                "silent",
                Facts {
                    p95_at_peak: None,
                    ..good()
                },
                Some("nothing was answered"),
            ),
            (
                "shed in time of plenty",
                Facts {
                    shed: shed(80.0, 10.0),
                    ..good()
                },
                Some("second 80"),
            ),
            (
                "shed while pods are too few",
                Facts {
                    shed: shed(80.0, 17.0),
                    ..good()
                },
                None,
            ),
            (
                "shed a moment after they sufficed",
                Facts {
                    shed: shed(49.0, 10.0),
                    ..good()
                },
                None,
            ),
        ];
        for (name, facts, expected) in cases {
            match (expected, facts.problems().as_slice()) {
                (None, []) => {}
                (Some(part), [problem]) if problem.contains(part) => {}
                (_, problems) => panic!("{name}: {problems:?}"),
            }
        }
    }

    #[test]
    fn the_text_names_every_figure() {
        let text = Facts {
            unsure: vec!["sent late".into()],
            ..good()
        }
        .text();
        for part in [
            "1000 sent, 990 answered, 0 failed, 10 shed (503 with Retry-After, seconds 41 to 41: only while",
            "80 ms over all, 65 ms at the end of the peak; the target is 100 ms",
            "1 at first, 4 at most, 1 in the end",
            "unsure     sent late",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
