use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use super::*;
use crate::{
    controller::{context::Shared, test_support::installation},
    metrics::Metrics,
};

/// Lost otherwise: an operator that is stopped just when it begins to lead ends by its time limit, as if it had failed,
/// and keeps the Lease until then.
#[tokio::test]
async fn a_stop_before_the_first_list_is_followed_at_once() {
    let api = MockServer::start().await;
    let never = ResponseTemplate::new(200).set_delay(Duration::from_hours(1));
    Mock::given(any()).respond_with(never).mount(&api).await;
    let config = kube::Config::new(api.uri().parse().unwrap());
    let client = Client::try_from(config).unwrap();
    let scope = Scope::new(&client, None);
    let reporter = Reporter {
        controller: "mcpscale".into(),
        instance: None,
    };
    let context = Arc::new(Context {
        client: client.clone(),
        caches: scope.caches.clone(),
        installation: installation(),
        recorder: Recorder::new(client, reporter),
        metrics: Arc::new(Metrics::default()),
        has_metrics_source: false,
        reconcile_timeout: Duration::from_secs(10),
        outlooks: Shared::default(),
        written: Shared::default(),
        failures: Shared::default(),
    });
    let stop = CancellationToken::new();
    stop.cancel();
    let controlling = control(None, context, None, 1, (scope.touched, scope.changes), stop);
    let ended = tokio::time::timeout(Duration::from_secs(10), controlling).await;
    assert!(ended.is_ok(), "it waits for a list that does not come");
}
