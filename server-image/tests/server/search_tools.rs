//! The tools for finding messages, as agents use them.

use mcp_server::tools::shared_context::{ApiKeys, SharedContextSettings};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::databases::both;
use crate::support::server::{TestServer, settings};

const KEY: &str = "a key of more than thirty-two characters";

async fn session(client: &Client) -> String {
    let answer = client
        .call("create_session", json!({"purpose": "search", "agent_id": "ann"}))
        .await;
    answer["session_id"].as_str().unwrap().to_owned()
}

async fn add(client: &Client, session: &str, content: &str, more: Value) -> i64 {
    let mut arguments = json!({"session_id": session, "content": content, "agent_id": "ann"});
    for (name, value) in more.as_object().unwrap() {
        arguments[name] = value.clone();
    }
    let answer = client.call("add_message", arguments).await;
    answer["message_id"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

fn ids(answer: &Value) -> Vec<i64> {
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results
        .iter()
        .map(|result| result["message"]["id"].as_i64().unwrap())
        .collect()
}

/// Agents get what they look for, in the shape that the documentation promises, on either database.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_gives_scores_previews_and_relevance() {
    for database in both().await {
        let kind = database.kind;
        let server = TestServer::start(settings(&database.url)).await;
        let client = &server.client;
        let session = session(client).await;
        let long = format!("Cache of sessions {}", "é".repeat(200));
        let exact = add(client, &session, &long, json!({"metadata": {"topic": "latency"}})).await;
        let close = add(client, &session, "the chache off sessions", json!({})).await;
        add(client, &session, "qqqq", json!({})).await;

        let arguments = json!({"session_id": session, "query": "CACHE OF SESSIONS", "fuzzy_threshold": 70});
        let answer = client.call("search_context", arguments).await;
        assert_eq!(ids(&answer), [exact, close], "{kind}: {answer}");
        let [first, second] = [&answer["results"][0], &answer["results"][1]];
        assert_eq!(
            (&first["score"], &first["relevance"]),
            (&json!(100.0), &json!("high")),
            "{kind}"
        );
        assert_eq!(
            first["match_preview"],
            format!("Cache of sessions {}...", "é".repeat(132)),
            "{kind}"
        );
        assert_eq!(first["message"]["content"], long, "{kind}: the message is whole");
        assert_eq!(first["message"]["metadata"], json!({"topic": "latency"}), "{kind}");
        // What RapidFuzz 3.14.6 says of these two.
        assert_eq!(
            (&second["score"], &second["relevance"]),
            (&json!(94.12), &json!("high")),
            "{kind}"
        );
        assert_eq!(second["match_preview"], "the chache off sessions", "{kind}");
        assert_eq!(
            (
                &answer["message_count"],
                &answer["cache_hit"],
                &answer["threshold"],
                &answer["search_scope"]
            ),
            (&json!(2), &json!(false), &json!(70.0), &json!("all")),
            "{kind}"
        );
        assert!(answer["search_time_ms"].as_f64().unwrap() >= 0.0, "{kind}: {answer}");

        for (name, more, expected) in [
            ("defaults", json!({"query": "cache of sessions"}), vec![exact, close]),
            (
                "one result",
                json!({"query": "cache of sessions", "limit": 1}),
                vec![exact],
            ),
            ("metadata", json!({"query": "latency"}), vec![exact]),
            (
                "no metadata",
                json!({"query": "latency", "search_metadata": false, "fuzzy_threshold": 90}),
                vec![],
            ),
            (
                "nothing private",
                json!({"query": "cache of sessions", "search_scope": "private"}),
                vec![],
            ),
        ] {
            let mut arguments = more.clone();
            arguments["session_id"] = json!(session);
            let answer = client.call("search_context", arguments).await;
            assert_eq!(ids(&answer), expected, "{kind}, {name}: {answer}");
        }
    }
}

/// Wrong arguments are refused with the name of the argument.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn wrong_arguments_of_a_search_are_named() {
    let [database, _] = both().await;
    let server = TestServer::start(settings(&database.url)).await;
    let client = &server.client;
    let session = session(client).await;
    let unknown = "session_0000000000000000";
    let time = "2026-07-28T09:30:00Z";
    let later = "2026-07-28T09:30:01Z";
    for (tool, arguments, code, field) in [
        ("search_context", json!({"query": ""}), "INVALID_INPUT_FORMAT", "query"),
        (
            "search_context",
            json!({"query": "x".repeat(501)}),
            "CONTENT_TOO_LARGE",
            "query",
        ),
        (
            "search_context",
            json!({"query": "x", "fuzzy_threshold": 100.5}),
            "INVALID_INPUT_FORMAT",
            "fuzzy_threshold",
        ),
        (
            "search_context",
            json!({"query": "x", "fuzzy_threshold": -1}),
            "INVALID_INPUT_FORMAT",
            "fuzzy_threshold",
        ),
        (
            "search_context",
            json!({"query": "x", "limit": 0}),
            "INVALID_INPUT_FORMAT",
            "limit",
        ),
        (
            "search_context",
            json!({"query": "x", "limit": 101}),
            "INVALID_INPUT_FORMAT",
            "limit",
        ),
        (
            "search_context",
            json!({"query": "x", "session_id": unknown}),
            "SESSION_NOT_FOUND",
            "",
        ),
        (
            "search_context",
            json!({"query": "x", "session_id": "mine"}),
            "INVALID_INPUT_FORMAT",
            "session_id",
        ),
        (
            "search_by_sender",
            json!({"sender": ""}),
            "INVALID_INPUT_FORMAT",
            "sender",
        ),
        (
            "search_by_sender",
            json!({"sender": "a\u{0}b"}),
            "INVALID_INPUT_FORMAT",
            "sender",
        ),
        (
            "search_by_sender",
            json!({"sender": "ann", "limit": 101}),
            "INVALID_INPUT_FORMAT",
            "limit",
        ),
        (
            "search_by_sender",
            json!({"sender": "ann", "session_id": unknown}),
            "SESSION_NOT_FOUND",
            "",
        ),
        (
            "search_by_timerange",
            json!({"start_time": "now", "end_time": time}),
            "INVALID_INPUT_FORMAT",
            "start_time",
        ),
        (
            "search_by_timerange",
            json!({"start_time": time, "end_time": "soon"}),
            "INVALID_INPUT_FORMAT",
            "end_time",
        ),
        (
            "search_by_timerange",
            json!({"start_time": later, "end_time": time}),
            "INVALID_INPUT_FORMAT",
            "end_time",
        ),
        (
            "search_by_timerange",
            json!({"start_time": time, "end_time": later, "limit": 201}),
            "INVALID_INPUT_FORMAT",
            "limit",
        ),
        (
            "search_by_timerange",
            json!({"start_time": time, "end_time": later, "session_id": unknown}),
            "SESSION_NOT_FOUND",
            "",
        ),
    ] {
        let mut complete = json!({"session_id": session});
        for (name, value) in arguments.as_object().unwrap() {
            complete[name] = value.clone();
        }
        let answer = client.call(tool, complete).await;
        assert_eq!(answer["code"], code, "{tool} {arguments}: {answer}");
        assert_eq!(
            answer["context"]["field"].as_str().unwrap_or_default(),
            field,
            "{tool} {arguments}: {answer}"
        );
    }
}

/// Messages of a sender and of a time, found with what the server itself said of them.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_sender_and_time() {
    for database in both().await {
        let kind = database.kind;
        let server = TestServer::start(settings(&database.url)).await;
        let client = &server.client;
        let session = session(client).await;
        let first = add(client, &session, "one", json!({})).await;
        let second = add(client, &session, "two", json!({"agent_id": "bob"})).await;
        let third = add(client, &session, "three", json!({})).await;
        let of = |answer: &Value| -> Vec<i64> {
            let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
            assert_eq!(answer["count"], messages.len(), "{kind}");
            messages.iter().map(|message| message["id"].as_i64().unwrap()).collect()
        };
        let answer = client
            .call("search_by_sender", json!({"session_id": session, "sender": "ann"}))
            .await;
        assert_eq!(
            (of(&answer), &answer["sender"]),
            (vec![third, first], &json!("ann")),
            "{kind}"
        );

        let page = client.call("get_messages", json!({"session_id": session})).await;
        let times: Vec<&Value> = (0..3).map(|place| &page["messages"][place]["timestamp"]).collect();
        let arguments = json!({"session_id": session, "start_time": times[0], "end_time": times[1]});
        let answer = client.call("search_by_timerange", arguments).await;
        assert_eq!(of(&answer), [first, second], "{kind}: {answer}");
        assert_eq!(
            answer["timerange"],
            json!({"start": times[0], "end": times[1]}),
            "{kind}"
        );
        let arguments =
            json!({"session_id": session, "start_time": "2000-01-01", "end_time": "2999-12-31", "limit": 1});
        assert_eq!(
            of(&client.call("search_by_timerange", arguments).await),
            [first],
            "{kind}: the oldest"
        );
    }
}

/// With keys, an attacker without a token searches nothing, and one with a token of his own finds nothing private,
/// whatever he says about himself.
#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_finds_nothing_private() {
    for database in both().await {
        let kind = database.kind;
        let mut settings = settings(&database.url);
        settings.shared_context = SharedContextSettings {
            api_keys: ApiKeys::read(Some(KEY), None).unwrap(),
            ..SharedContextSettings::default()
        };
        let server = TestServer::start(settings).await;
        let client = &server.client;
        let token = async |agent: &str| -> Value {
            let arguments = json!({"agent_id": agent, "agent_type": "claude", "api_key": KEY});
            client.call("authenticate_agent", arguments).await["token"].clone()
        };
        let (ann, eve) = (token("ann").await, token("eve").await);
        let answer = client
            .call("create_session", json!({"purpose": "search", "auth_token": ann}))
            .await;
        let session = answer["session_id"].as_str().unwrap();
        let arguments = json!({"session_id": session, "content": "the password is swordfish", "visibility": "private", "auth_token": ann});
        client.call("add_message", arguments).await;

        let search = json!({"session_id": session, "query": "the password is swordfish", "fuzzy_threshold": 0});
        let sender = json!({"session_id": session, "sender": "ann"});
        let time = json!({"session_id": session, "start_time": "2000-01-01", "end_time": "2999-12-31"});
        for (tool, arguments) in [
            ("search_context", search),
            ("search_by_sender", sender),
            ("search_by_timerange", time),
        ] {
            let with = |more: Value| {
                let mut arguments = arguments.clone();
                for (name, value) in more.as_object().unwrap() {
                    arguments[name] = value.clone();
                }
                arguments
            };
            for (name, more, refused) in [
                ("no token", json!({}), true),
                ("a claim", json!({"agent_id": "ann"}), true),
                (
                    "a made-up token",
                    json!({"auth_token": "sct_00000000-0000-4000-8000-000000000000"}),
                    true,
                ),
                (
                    "a token and a claim",
                    json!({"auth_token": eve, "agent_id": "ann"}),
                    false,
                ),
            ] {
                let answer = client.call(tool, with(more)).await;
                assert_eq!(answer["success"] == false, refused, "{kind}, {tool}, {name}: {answer}");
                // The query is told back, and it is not in the messages.
                let found = json!([answer["results"], answer["messages"]]).to_string();
                assert!(!found.contains("swordfish"), "{kind}, {tool}, {name}: {answer}");
            }
            let answer = client.call(tool, with(json!({"auth_token": ann}))).await;
            let found = json!([answer["results"], answer["messages"]]).to_string();
            assert!(
                found.contains("swordfish"),
                "{kind}, {tool}: the sender finds it: {answer}"
            );
        }
    }
}
