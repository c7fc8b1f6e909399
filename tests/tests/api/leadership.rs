//! Two operators with one Lease, as with `replicas: 2` of the chart, or in a rollout of the operator.

use kube::Client;
use mcpscale_tests::eventually;
use serde_json::json;

use super::support::{
    DEADLINE, NAMESPACE, Operator, cluster, create, free_address, leads, ready, reconciles, reported,
};

/// What a user loses without it: two operators that write against each other, or none when a node is drained.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_works_and_the_other_takes_over() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let (first_address, second_address) = (free_address(), free_address());
    let first = start(&client, "first", &first_address.to_string());
    eventually(DEADLINE, "the first leads", || async {
        leading(leads(first_address).await)
    })
    .await
    .unwrap();
    let _second = start(&client, "second", &second_address.to_string());
    ready(second_address, "the one that stands by").await;

    create(&client, "before", &json!({})).await;
    reported(&client, NAMESPACE, "before").await;
    assert!(leads(first_address).await.unwrap());
    assert!(!leads(second_address).await.unwrap(), "both lead");
    assert_eq!(reconciles(second_address).await.unwrap(), 0, "both work");

    first.stop().await;
    eventually(DEADLINE, "the second leads", || async {
        leading(leads(second_address).await)
    })
    .await
    .unwrap();
    create(&client, "after", &json!({})).await;
    reported(&client, NAMESPACE, "after").await;
    assert!(reconciles(second_address).await.unwrap() > 0, "nobody else can have");
}

fn start(client: &Client, name: &str, address: &str) -> Operator {
    Operator::start(client.clone(), &["--pod-name", name, "--listen", address])
}

fn leading(leads: Result<bool, String>) -> Result<(), String> {
    if leads? { Ok(()) } else { Err("it stands by".to_owned()) }
}
