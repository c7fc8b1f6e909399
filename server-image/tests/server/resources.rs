//! Resources and prompts of the shared context, and following them.

use std::time::Duration;

use mcp_server::server::Settings;
use mcp_server::tools::shared_context::ApiKeys;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::databases::both;
use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, file_settings, settings};

const KEY: &str = "a key of more than thirty-two characters";

async fn with_key(mut settings: Settings) -> TestServer {
    settings.shared_context.api_keys = ApiKeys::read(Some(KEY), None).unwrap();
    TestServer::start(settings).await
}

async fn token(server: &TestServer, agent_id: &str, agent_type: &str) -> String {
    let who = json!({
        "agent_id": agent_id, "agent_type": agent_type, "api_key": KEY,
        "requested_permissions": ["read", "write", "admin"],
    });
    let answer = server.client.call("authenticate_agent", who).await;
    answer["token"].as_str().unwrap().to_owned()
}

fn reading(server: &TestServer, uri: &str) -> RequestBuilder {
    server.client.modern("resources/read", json!({"uri": uri}))
}

/// The JSON of a resource, or the error's envelope.
async fn read(server: &TestServer, uri: &str, token: &str) -> Value {
    let answer: Value = reading(server, uri)
        .bearer_auth(token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    match answer["result"]["contents"][0]["text"].as_str() {
        Some(text) => serde_json::from_str(text).unwrap(),
        None => answer["error"]["data"].clone(),
    }
}

fn follow(server: &TestServer, uri: &str) -> RequestBuilder {
    server.client.modern(
        "subscriptions/listen",
        json!({"notifications": {"resourceSubscriptions": [uri]}}),
    )
}

/// Reads a stream until `text` has come; what was read on the way.
async fn hear(stream: &mut Response, text: &str) -> String {
    let mut heard = String::new();
    let hearing = async {
        while !heard.contains(text) {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            heard.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    let heard_in_time = tokio::time::timeout(Duration::from_secs(20), hearing).await.is_ok();
    assert!(heard_in_time, "{text:?} was not heard: {heard}");
    heard
}

/// Resources show what the tools show, to whom they show it, and nothing more.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of resources and readers")]
async fn resources_show_what_the_caller_may_see() {
    for database in both().await {
        let kind = database.kind;
        let server = with_key(settings(&database.url)).await;
        let (ann, eve, root) = tokio::join!(
            token(&server, "ann", "claude"),
            token(&server, "eve", "gemini"),
            token(&server, "root", "admin")
        );
        let session = server
            .client
            .call("create_session", json!({"purpose": "p", "auth_token": ann}))
            .await["session_id"]
            .as_str()
            .unwrap()
            .to_owned();
        for (content, visibility) in [
            ("first", "public"),
            ("SECRET", "private"),
            ("SECRET too", "agent_only"),
            ("last", "public"),
        ] {
            let message =
                json!({"session_id": session, "content": content, "visibility": visibility, "auth_token": ann});
            assert_eq!(server.client.call("add_message", message).await["success"], true);
        }
        let entry = json!({"key": "SECRET", "value": {"a": 1}, "auth_token": ann});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);

        let uri = format!("session://{session}");
        let own = read(&server, &uri, &ann).await;
        assert_eq!(
            (&own["session"]["purpose"], &own["message_count"]),
            (&json!("p"), &json!(4)),
            "{kind}"
        );
        let last = read(&server, &format!("{uri}/messages/2"), &ann).await;
        assert_eq!(
            (&last["count"], &last["messages"][0]["content"]),
            (&json!(2), &json!("last")),
            "{kind}"
        );
        let memory = read(&server, "agent://ann/memory", &ann).await;
        assert_eq!(
            (&memory["count"], &memory["entries"][0]["value"]),
            (&json!(1), &json!({"a": 1})),
            "{kind}"
        );
        let report = read(&server, "performance://metrics", &root).await;
        assert!(report["performance"]["figures"].is_object(), "{kind}: {report}");
        let tool = server
            .client
            .call("get_performance_metrics", json!({"auth_token": root}))
            .await;
        assert!(tool["performance"]["figures"].is_object(), "{kind}: {tool}");

        for (name, uri, token, code) in [
            (
                "another's memory",
                "agent://ann/memory".to_owned(),
                &eve,
                "PERMISSION_DENIED",
            ),
            (
                "another's memory, as administrator",
                "agent://ann/memory".to_owned(),
                &root,
                "PERMISSION_DENIED",
            ),
            (
                "performance",
                "performance://metrics".to_owned(),
                &eve,
                "PERMISSION_DENIED",
            ),
            ("no token", uri.clone(), &String::new(), "PERMISSION_DENIED"),
            (
                "no session",
                "session://session_0000000000000000".to_owned(),
                &eve,
                "SESSION_NOT_FOUND",
            ),
            (
                "no number",
                format!("{uri}/messages/many"),
                &eve,
                "INVALID_INPUT_FORMAT",
            ),
            ("too many", format!("{uri}/messages/1001"), &eve, "INVALID_INPUT_FORMAT"),
        ] {
            assert_eq!(read(&server, &uri, token).await["code"], code, "{kind}: {name}");
        }
        for uri in [uri.clone(), format!("{uri}/messages/1000")] {
            let text = read(&server, &uri, &eve).await.to_string();
            assert!(
                text.contains("first") && !text.contains("SECRET"),
                "{kind}, {uri}: {text}"
            );
        }
        let debug = json!({"name": "debug-session", "arguments": {"session_id": session}});
        let prompt = server.client.modern("prompts/get", debug).bearer_auth(&eve);
        let text = prompt.send().await.unwrap().text().await.unwrap();
        assert!(
            text.contains("eve sees 2 messages") && !text.contains("SECRET"),
            "{kind}: {text}"
        );
        for (uri, part) in [
            ("server://info/x", "authenticate_agent"),
            ("docs://tools/x", "## set_memory"),
        ] {
            let text = reading(&server, uri).send().await.unwrap().text().await.unwrap();
            assert!(text.contains(part), "{kind}, {uri}: {text}");
        }
    }
}

/// Whatever stands between agents and the server may keep what an answer allows: what is wrongly marked as the same for
/// all gives one agent's data to another, and a time to keep it shows data that has changed.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_the_same_for_all_may_be_kept() {
    let (settings, _folder) = file_settings();
    let server = with_key(settings).await;
    let (ann, root) = tokio::join!(token(&server, "ann", "claude"), token(&server, "root", "admin"));
    let session = json!({"purpose": "p", "auth_token": ann});
    let session = server.client.call("create_session", session).await["session_id"].clone();
    let session = format!("session://{}", session.as_str().unwrap());
    let messages = format!("{session}/messages/5");
    let table = [
        (session.as_str(), &ann, "private"),
        (messages.as_str(), &ann, "private"),
        ("agent://ann/memory", &ann, "private"),
        ("performance://metrics", &root, "private"),
        ("server://info/x", &ann, "public"),
        ("docs://tools/x", &ann, "public"),
    ];
    for (uri, token, scope) in table {
        let response = reading(&server, uri).bearer_auth(token).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        let result = &answer["result"];
        assert!(result["contents"][0]["text"].is_string(), "{uri}: {answer}");
        let fresh = result["ttlMs"].as_u64();
        assert_eq!(
            (result["cacheScope"].as_str(), fresh.map(|millis| millis > 0)),
            (Some(scope), Some(scope == "public")),
            "{uri}: {answer}"
        );
    }
    let response = server
        .client
        .modern("resources/templates/list", json!({}))
        .send()
        .await
        .unwrap();
    let templates: Value = response.json().await.unwrap();
    let count = templates["result"]["resourceTemplates"].as_array().map(Vec::len);
    assert_eq!(count, Some(table.len()), "a new kind of resource needs a line above");
}

/// A page that ends early must say so, or the messages after it are lost for whoever asked; and the resource must not
/// take a server's memory either.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_long_messages_say_that_there_is_more() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let client = &server.client;
    let session = client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let message = json!({"session_id": session, "content": "x".repeat(100_000)});
    for _ in 0..45 {
        assert_eq!(client.call("add_message", message.clone()).await["success"], true);
    }
    for (offset, count, has_more) in [(0, 42, true), (42, 3, false), (45, 0, false)] {
        let page = json!({"session_id": session, "limit": 1000, "offset": offset});
        let page = client.call("get_messages", page).await;
        assert_eq!(
            (&page["count"], &page["total_count"], &page["has_more"]),
            (&json!(count), &json!(45), &json!(has_more)),
            "from {offset}"
        );
    }
    let uri = format!("session://{}/messages/1000", session.as_str().unwrap());
    assert_eq!(read(&server, &uri, "").await["count"], 42);
    let debug = json!({"name": "debug-session", "arguments": {"session_id": session}});
    let prompt = client.modern("prompts/get", debug).send().await.unwrap();
    let text = prompt.text().await.unwrap();
    assert!(text.contains("sees 45 messages; this is about the newest 42"), "{text}");
}

/// A client that follows a session must hear of a message, whichever replica took it; and only who may read may follow.
#[tokio::test(flavor = "multi_thread")]
async fn followers_hear_of_messages_at_any_replica() {
    let url = SHARED.database().await;
    let (a, b) = tokio::join!(with_key(settings(&url)), with_key(settings(&url)));
    let ann = token(&a, "ann", "claude").await;
    let session = a
        .client
        .call("create_session", json!({"purpose": "p", "auth_token": ann}))
        .await["session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (name, uri, token) in [
        ("no token", format!("session://{session}"), ""),
        ("another's memory", "agent://bob/memory".to_owned(), ann.as_str()),
        (
            "no session",
            "session://session_0000000000000000".to_owned(),
            ann.as_str(),
        ),
    ] {
        let text = follow(&a, &uri)
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(text.contains("error"), "{name}: {text}");
    }
    let message = json!({"session_id": session, "content": "m", "auth_token": ann});
    for uri in [
        format!("session://{session}"),
        format!("session://{session}/messages/5"),
    ] {
        let mut stream = follow(&b, &uri).bearer_auth(&ann).send().await.unwrap();
        hear(&mut stream, "notifications/subscriptions/acknowledged").await;
        assert_eq!(a.client.call("add_message", message.clone()).await["success"], true);
        hear(&mut stream, "notifications/resources/updated").await;
    }
    let mut stream = follow(&b, "agent://ann/memory").bearer_auth(&ann).send().await.unwrap();
    hear(&mut stream, "notifications/subscriptions/acknowledged").await;
    let entry = json!({"key": "k", "value": 1, "auth_token": ann});
    assert_eq!(a.client.call("set_memory", entry).await["success"], true);
    hear(&mut stream, "notifications/resources/updated").await;
}

/// Whoever fills in the template as RFC 6570 says, or writes its id as it is, must get its own memory, and by no way
/// to write an id another's.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_its_owners_however_the_id_is_written() {
    let (settings, _folder) = file_settings();
    let server = with_key(settings).await;
    for (name, agent_id, written, is_own) in [
        ("plain", "ann", "ann", true),
        ("slash as it is", "ci/helper", "ci/helper", true),
        ("slash escaped", "ci/helper", "ci%2Fhelper", true),
        ("small digits", "ci/helper", "ci%2fhelper", true),
        ("umlaut escaped", "müller", "m%C3%BCller", true),
        ("escape in the id, as it is", "a%2Fb", "a%2Fb", true),
        ("escape in the id, escaped", "a%2Fb", "a%252Fb", true),
        ("broken escape", "50%", "50%", true),
        ("another's", "eve", "ci%2Fhelper", false),
        ("another's, every letter escaped", "eve", "%61%6E%6E", false),
        ("another's, escaped twice", "ci/helper", "ci%252Fhelper", false),
        ("another's with an escape in it", "a/b", "a%252Fb", false),
        ("above its own", "ci", "ci%2Fhelper", false),
    ] {
        let token = token(&server, agent_id, "claude").await;
        let entry = json!({"key": "k", "value": agent_id, "auth_token": token});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true, "{name}");
        let memory = read(&server, &format!("agent://{written}/memory"), &token).await;
        if is_own {
            assert_eq!(memory["entries"][0]["value"], agent_id, "{name}: {memory}");
        } else {
            assert_eq!(memory["code"], "PERMISSION_DENIED", "{name}: {memory}");
        }
    }
    // Both read theirs by the same URI.
    for agent_id in ["a%2Fb", "a/b"] {
        let token = token(&server, agent_id, "claude").await;
        let memory = read(&server, "agent://a%2Fb/memory", &token).await;
        assert_eq!(memory["entries"][0]["value"], agent_id, "{memory}");
    }
}

/// Where agents are who they say they are, the URI is all that says it: it must mean the agent that the tools mean.
#[tokio::test(flavor = "multi_thread")]
async fn an_escaped_id_claims_the_agent_it_stands_for() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    for (agent_id, written) in [
        ("ci/helper", "ci%2Fhelper"),
        ("müller", "m%C3%BCller"),
        ("a%2Fb", "a%252Fb"),
    ] {
        let entry = json!({"key": "k", "value": agent_id, "agent_id": agent_id});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
        let memory = read(&server, &format!("agent://{written}/memory"), "").await;
        assert_eq!(memory["entries"][0]["value"], agent_id, "{written}: {memory}");
    }
}

/// A client knows what it follows by the URI it named, and reads nothing again without news of that. News of another
/// agent would tell when that one works.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_memory_comes_under_the_uri_that_is_followed() {
    let (settings, _folder) = file_settings();
    let server = with_key(settings).await;
    for (agent_id, written) in [
        ("ci/helper", "ci/helper"),
        ("ci/helper", "ci%2Fhelper"),
        ("ci/müller", "ci%2Fm%C3%BCller"),
        ("ci/müller", "ci/m%C3%BCller"),
        ("a%2Fb", "a%252Fb"),
    ] {
        let token = token(&server, agent_id, "claude").await;
        let uri = format!("agent://{written}/memory");
        let mut stream = follow(&server, &uri).bearer_auth(&token).send().await.unwrap();
        hear(&mut stream, "notifications/subscriptions/acknowledged").await;
        let entry = json!({"key": "k", "value": 1, "auth_token": token});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
        let news = hear(&mut stream, "notifications/resources/updated").await;
        assert!(news.contains(&format!("{uri:?}")), "{uri}: {news}");
    }
    for (name, agent_id, written, answer) in [
        ("another's", "eve", "ci%2Fhelper", "PERMISSION_DENIED"),
        (
            "no news of it",
            "ci/helper",
            "ci%2fhelper",
            "Follow agent://ci%2Fhelper/memory",
        ),
        ("news of a/b", "a%2Fb", "a%2Fb", "Follow agent://a%252Fb/memory"),
    ] {
        let token = token(&server, agent_id, "claude").await;
        let request = follow(&server, &format!("agent://{written}/memory")).bearer_auth(token);
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.contains(answer), "{name}: {text}");
    }
}
