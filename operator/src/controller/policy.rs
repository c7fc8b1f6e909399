//! What the scaler needs to know of a resource: its bounds, targets and behaviour in the units of the decision core.

use mcpscale_autoscaler::{self as autoscaler, Balancing, LatencyTarget, Policy, Quantile, Targets};
use mcpscale_crds::v1alpha1::{
    Behavior, KnobMode, LoadBalancerMode, McpServer, PolicyKind, ScalingRules, SelectPolicy,
};

use super::validate::{Installation, ValidateError, replicas};

/// What the scaler needs to know of a resource.
///
/// # Errors
/// When a value with a unit does not parse.
pub fn policy(resource: &McpServer, installation: &Installation) -> Result<Policy, ValidateError> {
    let spec = &resource.spec;
    let replicas = replicas(spec.replicas, spec.autoscaling.as_ref())?;
    let (minimum, maximum) = match spec.autoscaling.as_ref().filter(|a| a.replicas.mode != KnobMode::Off) {
        Some(autoscaling) => (autoscaling.min_replicas, autoscaling.max_replicas),
        None => (replicas.most(), replicas.most()),
    };
    let load_balancers = match spec.load_balancer.mode {
        LoadBalancerMode::Nginx => spec.load_balancer.replicas,
        LoadBalancerMode::None => 0,
    };
    let cpu_limit = spec
        .server
        .resources
        .limits
        .get("cpu")
        .map(mcpscale_crds::Quantity::value)
        .transpose();
    Ok(Policy {
        min_replicas: unsigned(minimum).max(1),
        max_replicas: unsigned(maximum).max(1),
        concurrency: unsigned(spec.server.concurrency).max(1),
        balancing: Balancing::of_load_balancers(unsigned(load_balancers)),
        cpu_limit_cores: cpu_limit.map_err(|source| ValidateError::Value {
            field: "server.resources.limits.cpu",
            source,
        })?,
        scrape_interval_seconds: f64::from(installation.scrape_interval_seconds),
        targets: targets(resource)?,
        behavior: spec
            .autoscaling
            .as_ref()
            .and_then(|a| a.behavior.as_ref())
            .map(behavior)
            .unwrap_or_default(),
    })
}

fn targets(resource: &McpServer) -> Result<Targets, ValidateError> {
    let Some(declared) = &resource.spec.performance_targets else {
        return Ok(Targets::default());
    };
    let mut latency = Vec::new();
    if let Some(bounds) = &declared.latency {
        let quantiles = [
            ("performanceTargets.latency.p50", Quantile::P50, &bounds.p50),
            ("performanceTargets.latency.p95", Quantile::P95, &bounds.p95),
            ("performanceTargets.latency.p99", Quantile::P99, &bounds.p99),
        ];
        for (field, quantile, bound) in quantiles {
            if let Some(bound) = bound {
                let bound = bound.parse().map_err(|source| ValidateError::Value { field, source })?;
                latency.push(LatencyTarget {
                    quantile,
                    bound_seconds: bound.as_secs_f64(),
                });
            }
        }
    }
    let error_rate = declared
        .error_rate
        .as_ref()
        .map(mcpscale_crds::Percent::ratio)
        .transpose();
    Ok(Targets {
        latency,
        requests_per_second: declared.requests_per_second.map(f64::from),
        error_rate: error_rate.map_err(|source| ValidateError::Value {
            field: "performanceTargets.errorRate",
            source,
        })?,
    })
}

fn behavior(declared: &Behavior) -> autoscaler::Behavior {
    autoscaler::Behavior {
        scale_up: declared.scale_up.as_ref().map(rules),
        scale_down: declared.scale_down.as_ref().map(rules),
    }
}

fn rules(declared: &ScalingRules) -> autoscaler::ScalingRules {
    autoscaler::ScalingRules {
        stabilization_window_seconds: declared.stabilization_window_seconds.map(unsigned),
        select_policy: match declared.select_policy {
            None | Some(SelectPolicy::Max) => autoscaler::SelectPolicy::Max,
            Some(SelectPolicy::Min) => autoscaler::SelectPolicy::Min,
            Some(SelectPolicy::Disabled) => autoscaler::SelectPolicy::Disabled,
        },
        policies: declared
            .policies
            .iter()
            .flatten()
            .map(|policy| autoscaler::ScalingPolicy {
                kind: match policy.kind {
                    PolicyKind::Pods => autoscaler::PolicyKind::Pods,
                    PolicyKind::Percent => autoscaler::PolicyKind::Percent,
                },
                value: unsigned(policy.value),
                period_seconds: unsigned(policy.period_seconds),
            })
            .collect(),
    }
}

/// The schema keeps these from being negative.
fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
