//! `mcpscale run`: sets the parts up, joins them, and ends them in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    runtime::{
        events::{Recorder, Reporter},
        wait::{await_condition, conditions},
    },
};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::RunArguments,
    controller::{
        context::{Context, Shared},
        run::{Scope, run as run_scope},
        validate::Installation,
    },
    http::{self, Probes},
    metrics::Metrics,
    signals::{PrometheusSource, TimeLimits},
    telemetry,
};

const CRD: &str = "mcpservers.mcpscale.dev";
/// A leader that does not renew for this long has lost the Lease.
const LEASE_SECONDS: u64 = 15;
/// A leader renews when this much is left.
const LEASE_GRACE_SECONDS: u64 = 5;
/// Longest time that running reconciles get when the operator is asked to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// Pause before the API server is asked again about the definition of `McpServers`.
const DEFINITION_PAUSE: Duration = Duration::from_secs(2);

/// Runs the operator until SIGTERM or SIGINT, or until it loses the Lease.
///
/// # Errors
/// With a message that says what to do.
pub async fn run(arguments: RunArguments) -> Result<(), String> {
    telemetry::start(arguments.log_format, &arguments.log_level)?;
    let client = connect().await?;
    operate(arguments, client, stop_on_signal()?).await
}

/// Runs the operator against the cluster of a client until `stop`, or until it loses the Lease.
///
/// # Errors
/// With a message that says what to do.
pub async fn operate(arguments: RunArguments, client: Client, stop: CancellationToken) -> Result<(), String> {
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let probes = Probes {
        metrics: Arc::clone(&metrics),
        ready: Arc::clone(&ready),
    };
    // The probes answer until the very end, so that a drain does not look like a crash.
    let probes_stop = CancellationToken::new();
    let probes_server = tokio::spawn(http::serve(arguments.listen, probes, probes_stop.clone()));

    let ended = tokio::select! {
        ended = work(arguments, client, metrics, ready, stop) => ended,
        served = probes_server => Err(match served {
            Ok(Err(error)) => format!("--listen: {error}"),
            Ok(Ok(())) | Err(_) => "the HTTP server ended".into(),
        }),
    };
    probes_stop.cancel();
    ended
}

async fn connect() -> Result<Client, String> {
    let config = Config::infer()
        .await
        .map_err(|error| format!("no cluster to talk to: {error}"))?;
    Client::try_from(config).map_err(|error| format!("the API server's address or certificate cannot be used: {error}"))
}

async fn work(
    arguments: RunArguments,
    client: Client,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Result<(), String> {
    tokio::select! {
        found = wait_for_definition(&client) => found?,
        () = stop.cancelled() => return Ok(()),
    }
    let source = arguments.prometheus_url.as_deref().map(|url| {
        PrometheusSource::new(url, arguments.installation.scrape_interval, TimeLimits::default())
            .map_err(|error| error.to_string())
    });
    let source = source.transpose()?;
    let scopes = scopes(&client, &arguments.watch_namespaces);
    let identity = arguments
        .pod_name
        .clone()
        .unwrap_or_else(|| format!("mcpscale-{}", std::process::id()));
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: "mcpscale".into(),
            instance: Some(identity.clone()),
        },
    );
    let (lead, leading) = watch::channel(false);

    // One gauge tells of those of all scopes.
    let failures = Shared::default();
    let mut fillings = Vec::new();
    let running = join_all(scopes.into_iter().map(|scope| {
        let (filled, filling) = oneshot::channel();
        fillings.push(filling);
        let context = Arc::new(Context {
            client: client.clone(),
            caches: scope.caches.clone(),
            installation: Installation::from(&arguments.installation),
            recorder: recorder.clone(),
            metrics: Arc::clone(&metrics),
            has_metrics_source: source.is_some(),
            reconcile_timeout: arguments.reconcile_timeout,
            outlooks: Shared::default(),
            written: Shared::default(),
            failures: failures.clone(),
        });
        let scaler = source.clone().map(|source| (source, arguments.tick));
        run_scope(
            scope,
            context,
            scaler,
            arguments.concurrency,
            (filled, leading.clone()),
            stop.clone(),
        )
    }));
    tokio::spawn(async move {
        let filled = join_all(fillings).await;
        ready.store(filled.iter().all(Result::is_ok), Ordering::Relaxed);
    });
    let drained = async {
        running.await;
    };
    // Not before running reconciles have ended: the next leader must not write beside them.
    let release = CancellationToken::new();
    let leadership = lead_until_lost(&arguments, client.clone(), identity, &metrics, lead, release.clone());
    let draining = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::pin!(drained);
    let mut leadership = std::pin::pin!(leadership);
    tokio::select! {
        () = &mut drained => {
            release.cancel();
            leadership.await
        }
        lost = &mut leadership => lost,
        () = draining => Err(format!("running reconciles did not end within {} s", DRAIN_LIMIT.as_secs())),
    }
}

/// One scope for all namespaces, or one for each that is named.
fn scopes(client: &Client, namespaces: &[String]) -> Vec<Scope> {
    let named: Vec<_> = namespaces.iter().filter(|namespace| !namespace.is_empty()).collect();
    if named.is_empty() {
        return vec![Scope::new(client, None)];
    }
    named
        .into_iter()
        .map(|namespace| Scope::new(client, Some(namespace.clone())))
        .collect()
}

/// Restarting does not bring a missing definition, so it is waited for.
async fn wait_for_definition(client: &Client) -> Result<(), String> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    match definitions.get_opt(CRD).await {
        Ok(Some(_)) => {}
        Ok(None) => tracing::warn!(
            "the CustomResourceDefinition {CRD} is missing; waiting for it: install the chart mcpscale-crds, or kubectl apply --server-side -f crds/"
        ),
        Err(error) => {
            return Err(format!(
                "the API server refused to show the CustomResourceDefinition {CRD}: {error}"
            ));
        }
    }
    while let Err(error) = await_condition(definitions.clone(), CRD, conditions::is_crd_established()).await {
        tracing::warn!(%error, "cannot watch the CustomResourceDefinition {CRD}; trying again");
        tokio::time::sleep(DEFINITION_PAUSE).await;
    }
    Ok(())
}

/// Takes part in the election until asked to release the Lease. Losing the Lease ends the process: another leads, and only a new
/// start is sure to hold nothing of before.
async fn lead_until_lost(
    arguments: &RunArguments,
    client: Client,
    identity: String,
    metrics: &Metrics,
    lead: watch::Sender<bool>,
    release: CancellationToken,
) -> Result<(), String> {
    let namespace = arguments.lease_namespace.as_deref().unwrap_or(&arguments.pod_namespace);
    let manager = LeaseManagerBuilder::new(client, &arguments.lease_name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .build()
        .await
        .map_err(|error| format!("the Lease {namespace}/{} cannot be used: {error}", arguments.lease_name))?;
    let (mut leads, task) = manager.watch().await;
    let mut was_leader = false;
    loop {
        let is_leader = *leads.borrow_and_update();
        metrics.leader.set(i64::from(is_leader));
        if was_leader && !is_leader {
            return Err("the Lease was lost: another operator leads".into());
        }
        if is_leader && !was_leader {
            tracing::info!("leading");
            was_leader = true;
            let _ = lead.send(true);
        }
        tokio::select! {
            changed = leads.changed() => if changed.is_err() {
                return Err("the election ended".into());
            },
            () = release.cancelled() => break,
        }
    }
    // Dropping the receiver ends the task, which releases the Lease, so that the next leader need not wait for it.
    drop(leads);
    let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    Ok(())
}

fn stop_on_signal() -> Result<CancellationToken, String> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be listened for: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: running reconciles are finished");
        token.cancel();
    });
    Ok(stop)
}
