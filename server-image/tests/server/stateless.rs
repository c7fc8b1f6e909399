//! Clients of 2026-07-28 when each request meets another replica.

use mcp_server::server::Fixtures;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::events::Events;
use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, settings};

async fn two_replicas(fixtures: Fixtures) -> (TestServer, TestServer) {
    let mut settings = settings(&SHARED.database().await);
    settings.operation.fixtures = fixtures;
    tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings))
}

async fn answer(client: &Client, tool: &str, more: Value) -> Value {
    let mut params = json!({"name": tool, "arguments": {}});
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    client
        .modern("tools/call", params)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap()
}

/// Behind a load balancer, whoever listens and whoever changes something rarely meet at one replica.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_of_changes_at_other_replicas() {
    let (a, b) = two_replicas(Fixtures::Conformance).await;
    let uri = "test://watched-resource";
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": [uri]}});
    let mut listening = Events::of(b.client.modern("subscriptions/listen", wanted).send().await.unwrap());
    assert_eq!(
        listening.message().await["method"],
        "notifications/subscriptions/acknowledged"
    );
    answer(&a.client, "test_trigger_prompt_change", json!({})).await;
    answer(&a.client, "test_trigger_resource_change", json!({})).await;
    // The relay may tell a new listener once more that everything may have changed; what was not asked for never comes.
    loop {
        let told = listening.message().await;
        assert_ne!(told["method"], "notifications/prompts/list_changed");
        if told["method"] == "notifications/resources/updated" {
            assert_eq!(told["params"]["uri"], uri);
            break;
        }
    }
    answer(&a.client, "test_trigger_tool_change", json!({})).await;
    while listening.message().await["method"] != "notifications/tools/list_changed" {}
}

/// News of what nobody may read would give away that it exists.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_cannot_be_followed() {
    let (a, _b) = two_replicas(Fixtures::Conformance).await;
    let wanted = json!({"notifications": {"resourceSubscriptions": ["test://nothing"]}});
    let mut listening = Events::of(a.client.modern("subscriptions/listen", wanted).send().await.unwrap());
    listening.message().await;
    assert_eq!(listening.message().await["error"]["code"], -32602);
}

/// The second round of a call reaches another replica; a state that was changed, or is for another tool, is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_state_opens_at_every_replica_and_only_unchanged() {
    let (a, b) = two_replicas(Fixtures::Conformance).await;
    let tool = "test_input_required_result_request_state";
    let first = answer(&a.client, tool, json!({})).await;
    assert_eq!(first["result"]["resultType"], "input_required");
    let state = first["result"]["requestState"].as_str().unwrap();
    let response = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let second = |state: &str| json!({"requestState": state, "inputResponses": response});
    let done = answer(&b.client, tool, second(state)).await;
    assert_eq!(done["result"]["content"][0]["text"], "Confirmed: state-ok", "{done}");

    let middle = state.len() / 2;
    let other = if &state[middle..=middle] == "A" { "B" } else { "A" };
    let changed = format!("{}{other}{}", &state[..middle], &state[middle + 1..]);
    for (name, tool, state) in [
        ("changed", tool, changed.as_str()),
        ("cut off", tool, &state[..middle]),
        ("of another tool", "test_input_required_result_multi_round", state),
    ] {
        let refused = answer(&b.client, tool, second(state)).await;
        assert_eq!(refused["error"]["code"], -32602, "{name}: {refused}");
    }
}

/// Closing the answer is how a client of 2026-07-28 cancels: work for nobody must not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_its_call() {
    let (a, _b) = two_replicas(Fixtures::Load).await;
    let call = a.client.work(60_000);
    a.until_metric("mcp_in_flight_requests", 1.0).await;
    call.abort();
    a.until_metric("mcp_in_flight_requests", 0.0).await;
}
