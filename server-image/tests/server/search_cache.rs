//! Searches that are answered from the cache: the same answer, sooner, to nobody else, and not for longer than
//! promised.

use std::time::Duration;

use mcp_server::tools::shared_context::ApiKeys;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::databases::both;
use crate::support::redis::Redis;
use crate::support::server::{TestServer, settings};

const KEY: &str = "a key of more than thirty-two characters";
/// Long enough that nothing is checked again during a test.
const LONG: Duration = Duration::from_secs(30);

async fn session(client: &Client, more: Value) -> Value {
    let mut arguments = json!({"purpose": "search"});
    extend(&mut arguments, &more);
    client.call("create_session", arguments).await["session_id"].clone()
}

fn extend(arguments: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        arguments[name] = value.clone();
    }
}

async fn add(client: &Client, session: &Value, more: Value) {
    let mut arguments = json!({"session_id": session, "agent_id": "ann"});
    extend(&mut arguments, &more);
    let answer = client.call("add_message", arguments).await;
    assert_eq!(answer["success"], true, "{answer}");
}

/// Contents of the messages found, and whether they come from the cache.
async fn search(client: &Client, session: &Value, more: Value) -> (Vec<String>, bool) {
    let mut arguments = json!({"session_id": session, "query": "needle", "fuzzy_threshold": 0, "limit": 100});
    extend(&mut arguments, &more);
    let answer = client.call("search_context", arguments).await;
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let content = |result: &Value| result["message"]["content"].as_str().unwrap().to_owned();
    let mut contents: Vec<String> = results.iter().map(content).collect();
    contents.sort();
    (contents, answer["cache_hit"].as_bool().unwrap())
}

/// An agent that asks again need not wait again; but what was said meanwhile must be found, also after nothing was.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_kept_until_its_session_changes() {
    for database in both().await {
        let kind = database.kind;
        let mut settings = settings(&database.url);
        settings.cache.staleness = LONG;
        let server = TestServer::start(settings).await;
        let client = &server.client;
        let (session, other) = (session(client, json!({})).await, session(client, json!({})).await);
        let exact = json!({"fuzzy_threshold": 100});
        assert_eq!(search(client, &session, exact.clone()).await, (vec![], false), "{kind}");
        assert_eq!(
            search(client, &session, exact.clone()).await,
            (vec![], true),
            "{kind}: nothing"
        );
        for (count, content) in ["one needle", "two needles"].into_iter().enumerate() {
            add(client, &session, json!({"content": content})).await;
            let (found, hit) = search(client, &session, exact.clone()).await;
            assert_eq!((found.len(), hit), (count + 1, false), "{kind}: {content} is found");
            let (again, hit) = search(client, &session, exact.clone()).await;
            assert_eq!((again, hit), (found, true), "{kind}: the same again");
            add(client, &other, json!({"content": content})).await;
            let (_, hit) = search(client, &session, exact.clone()).await;
            assert!(hit, "{kind}: another session changes nothing here");
        }
    }
}

/// Each argument that decides the answer must lead to an answer of its own.
#[tokio::test(flavor = "multi_thread")]
async fn another_search_gets_another_answer() {
    let [database, _] = both().await;
    let mut settings = settings(&database.url);
    settings.cache.staleness = LONG;
    let server = TestServer::start(settings).await;
    let client = &server.client;
    let session = session(client, json!({})).await;
    add(client, &session, json!({"content": "needle"})).await;
    add(
        client,
        &session,
        json!({"content": "noodle", "metadata": {"also": "needle"}}),
    )
    .await;
    add(
        client,
        &session,
        json!({"content": "own needle", "visibility": "private"}),
    )
    .await;
    let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let as_ann = |mut more: Value| {
        more["agent_id"] = json!("ann");
        more
    };
    for (name, more, expected) in [
        ("everything", json!({}), of(&["needle", "noodle", "own needle"])),
        (
            "another query",
            json!({"query": "noodle", "fuzzy_threshold": 100}),
            of(&["noodle"]),
        ),
        (
            "a threshold",
            json!({"fuzzy_threshold": 100}),
            of(&["needle", "noodle", "own needle"]),
        ),
        (
            "no metadata",
            json!({"fuzzy_threshold": 100, "search_metadata": false}),
            of(&["needle", "own needle"]),
        ),
        ("fewer", json!({"limit": 1}), of(&["own needle"])),
        (
            "public ones",
            json!({"search_scope": "public"}),
            of(&["needle", "noodle"]),
        ),
        ("private ones", json!({"search_scope": "private"}), of(&["own needle"])),
    ] {
        for hit in [false, true] {
            let found = search(client, &session, as_ann(more.clone())).await;
            assert_eq!(found, (expected.clone(), hit), "{name}");
        }
    }
}

/// What decides who reads what decides whose answer is kept: an agent's name, its type, and whether it is an
/// administrator. The most powerful ask first, at another replica, so that everything is in both tiers.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_the_results_of_another() {
    for database in both().await {
        let kind = database.kind;
        let redis = Redis::start();
        let mut settings = settings(&database.url);
        settings.data.redis_url = Some(redis.url.clone());
        settings.cache.staleness = LONG;
        settings.shared_context.api_keys = ApiKeys::read(Some(KEY), None).unwrap();
        let servers = database.servers(&settings).await;
        let first = &servers[0].client;
        let token = async |agent: &str, agent_type: &str, permissions: &[&str]| -> Value {
            let arguments = json!({
                "agent_id": agent, "agent_type": agent_type, "requested_permissions": permissions, "api_key": KEY,
            });
            let answer = first.call("authenticate_agent", arguments).await;
            assert_eq!(answer["success"], true, "{answer}");
            json!({"auth_token": answer["token"]})
        };
        let (read, all) = (&["read", "write"][..], &["read", "write", "admin"][..]);
        let root = token("root", "admin", all).await;
        let ann = token("ann", "claude", read).await;
        let readers = [
            ("an administrator", root.clone(), &["admin_only", "public"][..]),
            ("the sender", ann.clone(), &["agent_only", "private", "public"]),
            (
                "of the sender's type",
                token("eve", "claude", read).await,
                &["agent_only", "public"],
            ),
            ("of another type", token("eve", "gemini", read).await, &["public"]),
            (
                "of no administrator's right",
                token("root", "admin", read).await,
                &["public"],
            ),
            ("in capitals", token("ANN", "gemini", read).await, &["public"]),
            (
                "dressed up",
                token("ann\", agent_type: Some(\"claude", "gemini", read).await,
                &["public"],
            ),
        ];
        let session = session(first, ann.clone()).await;
        for (visibility, sender) in [
            ("public", &ann),
            ("private", &ann),
            ("agent_only", &ann),
            ("admin_only", &root),
        ] {
            let mut message = json!({"content": visibility, "visibility": visibility});
            extend(&mut message, sender);
            add(first, &session, message).await;
        }
        for round in ["new", "kept"] {
            for server in &servers {
                for (name, reader, expected) in &readers {
                    let (found, _) = search(&server.client, &session, reader.clone()).await;
                    assert_eq!(found, *expected, "{kind}: {name}, {round}");
                }
            }
        }
        for server in &servers {
            for (name, reader, _) in &readers {
                let (_, hit) = search(&server.client, &session, reader.clone()).await;
                assert!(hit, "{kind}: {name} has an answer of its own in the cache");
            }
        }
    }
}

/// A message that another program hides or removes must not be found any longer.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_or_removed_is_not_found_any_longer() {
    for database in both().await {
        let kind = database.kind;
        let server = TestServer::start(settings(&database.url)).await;
        let client = &server.client;
        let session = session(client, json!({})).await;
        add(client, &session, json!({"content": "one"})).await;
        add(client, &session, json!({"content": "two"})).await;
        assert_eq!(search(client, &session, json!({})).await.0, ["one", "two"], "{kind}");
        for (sql, expected) in [
            (
                "UPDATE messages SET visibility = 'private' WHERE content = 'one'",
                &["two"][..],
            ),
            ("DELETE FROM messages", &[]),
        ] {
            database.execute(sql, sql).await;
            let (found, _) = search(client, &session, json!({})).await;
            assert_eq!(found, expected, "{kind}: {sql}");
        }
        let delete = "DELETE FROM sessions";
        database.execute(delete, delete).await;
        let arguments = json!({"session_id": session, "query": "needle"});
        let answer = client.call("search_context", arguments).await;
        assert_eq!(answer["code"], "SESSION_NOT_FOUND", "{kind}: {answer}");
    }
}
