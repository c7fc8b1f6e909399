//! Runs the controller of one watch scope until it is asked to stop.

use std::{future::pending, sync::Arc};

use futures::{FutureExt, StreamExt, future::join_all};
use kube::{
    Api, Client,
    runtime::{
        Controller,
        controller::{self, Config},
        reflector::{ObjectRef, Store, store::WriterDropped},
        watcher,
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    caches::{Caches, GuardedServer, Watches, scoped},
    context::Context,
    events,
    reconcile::{ReconcileError, error_policy, reconcile},
    scaling,
};
use crate::signals::PrometheusSource;

/// The part of a scope that is set up before the operator leads: its caches fill while it stands by.
pub struct Scope {
    namespace: Option<String>,
    touched: mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    changes: mpsc::UnboundedReceiver<ObjectRef<GuardedServer>>,
    /// The caches of the scope.
    pub caches: Caches,
    watches: Watches,
}

impl Scope {
    /// Sets up the caches of a namespace, or of all.
    #[must_use]
    pub fn new(client: &Client, namespace: Option<String>) -> Self {
        let (touched, changes) = mpsc::unbounded_channel();
        let (caches, watches) = Caches::new(client, namespace.as_deref(), &touched);
        Self {
            namespace,
            touched,
            changes,
            caches,
            watches,
        }
    }
}

/// How the loop of the scaler runs: its source and the time between two ticks.
pub type Scaler = Option<(PrometheusSource, std::time::Duration)>;

/// Runs a scope. Reconciles start once its caches are filled, which `filled` is told, and `leading` is true; `stop`
/// ends them: running ones are finished.
pub async fn run(
    scope: Scope,
    context: Arc<Context>,
    scaler: Scaler,
    concurrency: u16,
    (filled, mut leading): (oneshot::Sender<()>, watch::Receiver<bool>),
    stop: CancellationToken,
) {
    let Scope {
        namespace,
        touched,
        changes,
        caches,
        watches,
    } = scope;
    let filling = tokio::spawn(join_all(
        watches
            .into_iter()
            .map(|watch| watch.for_each(|()| std::future::ready(()))),
    ));
    let lead = async {
        // The only place that waits for these caches: of several waiters, kube 5.0 wakes just one, and the others hang.
        caches.wait_until_ready().await?;
        // Nobody listens any more only when the operator is about to end; the sender of `leading` lives as long as it.
        let _ = filled.send(());
        let _ = leading.wait_for(|leads| *leads).await;
        Ok::<_, WriterDropped>(())
    };
    let ready = tokio::select! {
        ready = lead => ready.is_ok(),
        () = stop.cancelled() => false,
    };
    if ready {
        control(
            namespace.as_deref(),
            context,
            scaler,
            concurrency,
            (touched, changes),
            stop,
        )
        .await;
    }
    filling.abort();
}

type Triggers = (
    mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    mpsc::UnboundedReceiver<ObjectRef<GuardedServer>>,
);

async fn control(
    namespace: Option<&str>,
    context: Arc<Context>,
    scaler: Scaler,
    concurrency: u16,
    (touched, changes): Triggers,
    stop: CancellationToken,
) {
    let servers: Api<GuardedServer> = scoped(&context.client, namespace);
    let stopped = stop.clone();
    let controller = Controller::new(servers, watcher::Config::default())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(UnboundedReceiverStream::new(changes))
        .graceful_shutdown_on(async move { stopped.cancelled().await });
    let store = controller.store();
    let scaling = scaler.map(|(source, tick)| {
        tokio::spawn(scaling::run(
            source,
            tick,
            Arc::clone(&context),
            store.clone(),
            touched.clone(),
            stop.clone(),
        ))
    });
    let running = controller
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each_concurrent(None, |result| report(result, &context, &store));
    tokio::select! {
        () = running => {}
        () = stopped_before_the_list(&store, &stop) => {}
    }
    if let Some(scaling) = scaling {
        scaling.abort();
    }
}

/// Resolves when the operator is asked to stop before the controller has its list of servers. It has begun nothing then,
/// but kube 5.0 would wait for the list, whose watch has ended, for ever.
async fn stopped_before_the_list(store: &Store<GuardedServer>, stop: &CancellationToken) {
    stop.cancelled().await;
    if store.wait_until_ready().now_or_never().is_some() {
        pending::<()>().await;
    }
}

type Outcome =
    Result<(ObjectRef<GuardedServer>, controller::Action), controller::Error<ReconcileError, watcher::Error>>;

/// Tells people of errors. Reporting is outside of the reconcile, so that it has one place.
async fn report(outcome: Outcome, context: &Context, store: &Store<GuardedServer>) {
    match outcome {
        Err(controller::Error::ReconcilerFailed(error, object)) => {
            let server = ObjectRef::new(&object.name).within(object.namespace.as_deref().unwrap_or_default());
            if let Some(guarded) = store.get(&server) {
                let event = events::failure(error.reason(), &error.to_string());
                if let Err(error) = context.recorder.publish(&event, &reference(&guarded)).await {
                    tracing::warn!(%error, "an Event could not be published");
                }
            }
        }
        Err(controller::Error::ObjectNotFound(gone)) => {
            let gone = *gone;
            context.forget(&(gone.namespace.unwrap_or_default(), gone.name));
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the controller's queue failed and goes on"),
    }
}

fn reference(guarded: &GuardedServer) -> k8s_openapi::api::core::v1::ObjectReference {
    kube::Resource::object_ref(guarded, &())
}

#[cfg(test)]
mod tests;
