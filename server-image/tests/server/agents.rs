//! Agents, their tokens, and what an attacker gets.

use mcp_server::auth::Method;
use mcp_server::auth::api_keys::generate;
use mcp_server::tools::shared_context::{
    Agent, ApiKeys, NewMemory, NewMessage, NewSession, NewToken, Permission, SharedContextSettings, StorageError,
    TokenHash, Visibility, WRITTEN_WITHIN,
};
use serde_json::{Value, json};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::databases::{TestDatabase, both};
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

const KEY: &str = "a key of more than thirty-two characters";

async fn with_key(url: &str) -> TestServer {
    let mut settings = settings(url);
    settings.shared_context = SharedContextSettings {
        api_keys: ApiKeys::read(Some(KEY), None).unwrap(),
        ..SharedContextSettings::default()
    };
    TestServer::start(settings).await
}

async fn structured(request: reqwest::RequestBuilder) -> Value {
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["result"]["structuredContent"].clone()
}

async fn token(client: &Client, agent_id: &str, agent_type: &str, permissions: &[&str]) -> String {
    let arguments =
        json!({"agent_id": agent_id, "agent_type": agent_type, "requested_permissions": permissions, "api_key": KEY});
    let answer = client.call("authenticate_agent", arguments).await;
    answer["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned()
}

/// Only who has the key gets a token, and only who has a token gets in; what a caller claims counts for nothing then.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_tokens_and_tokens_prove_who_calls() {
    let url = SHARED.database().await;
    let server = with_key(&url).await;
    let client = &server.client;
    let who = json!({"agent_id": "ann", "agent_type": "claude"});
    for (name, request) in [
        ("no key", client.tool("authenticate_agent", &who)),
        (
            "a wrong key",
            client.tool("authenticate_agent", &who).header("x-api-key", "wrong"),
        ),
        (
            "a wrong key in the header beside the right one",
            client
                .tool(
                    "authenticate_agent",
                    &json!({"agent_id": "ann", "agent_type": "claude", "api_key": KEY}),
                )
                .header("x-api-key", "wrong"),
        ),
    ] {
        assert_eq!(structured(request).await["code"], "INVALID_API_KEY", "{name}");
    }
    let answer = structured(client.tool("authenticate_agent", &who).header("x-api-key", KEY)).await;
    assert_eq!(
        (
            &answer["permissions"],
            &answer["token_type"],
            &answer["expires_in"],
            &answer["agent_id"]
        ),
        (
            &json!(["read", "write"]),
            &json!("Protected"),
            &json!(86400),
            &json!("ann")
        )
    );
    let token = answer["token"].as_str().unwrap();

    let purpose = json!({"purpose": "p", "agent_id": "somebody else"});
    let denied = client.call("create_session", purpose.clone()).await;
    assert_eq!(
        (&denied["code"], &denied["success"]),
        (&json!("PERMISSION_DENIED"), &json!(false))
    );
    let with_argument = json!({"purpose": "p", "agent_id": "somebody else", "auth_token": token});
    let bearer = |value: &str| {
        client
            .tool("create_session", &purpose)
            .header("authorization", value.to_owned())
    };
    for (name, session) in [
        ("argument", client.call("create_session", with_argument).await),
        ("header", structured(bearer(&format!("Bearer {token}"))).await),
        (
            "header in small letters",
            structured(bearer(&format!("bearer  {token}"))).await,
        ),
    ] {
        assert_eq!(session["created_by"], "ann", "{name}: {session}");
    }
    for (value, code) in [
        (
            "sct_00000000-0000-4000-8000-000000000000",
            "TOKEN_AUTHENTICATION_FAILED",
        ),
        ("sct_nonsense", "INVALID_TOKEN_FORMAT"),
    ] {
        let refused = client
            .call("get_memory", json!({"key": "k", "auth_token": value}))
            .await;
        assert_eq!(refused["code"], code);
    }
    let database = connect(&url).await;
    until("refusals are in the audit log", async || {
        let rows = database
            .query(
                "SELECT agent_id || '/' || coalesce(target, ''), action, outcome, sum(times)::bigint FROM audit_log \
                 WHERE outcome <> 'ok' GROUP BY 1, 2, 3 ORDER BY 2, 3",
                &[],
            )
            .await
            .unwrap();
        let lines: Vec<(String, String, String, i64)> = rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect();
        // Nobody proved to be who the call said, so nobody's line says that it was that agent.
        let line = |claimed: &str, action: &str, outcome: &str, times| {
            (format!("/{claimed}"), action.to_owned(), outcome.to_owned(), times)
        };
        (lines
            == [
                line("ann", "authenticate_agent", "INVALID_API_KEY", 3),
                line("somebody else", "create_session", "PERMISSION_DENIED", 1),
                line("", "get_memory", "INVALID_TOKEN_FORMAT", 1),
                line("", "get_memory", "TOKEN_AUTHENTICATION_FAILED", 1),
            ])
        .then_some(())
    })
    .await;
    assert!(WRITTEN_WITHIN < Duration::from_secs(20));
}

/// Clients pass their token with every tool: it must not be in the way of a new one, and not do what only a key does.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_beside_the_key_changes_nothing() {
    let server = with_key(&SHARED.database().await).await;
    let client = &server.client;
    let valid = token(client, "ann", "claude", &["read", "write"]).await;
    for (name, key, auth_token, code) in [
        ("a valid token", json!(KEY), valid.as_str(), json!(null)),
        ("no token at all", json!(KEY), "nonsense", json!(null)),
        ("a token alone", json!(null), valid.as_str(), json!("INVALID_API_KEY")),
    ] {
        let who = json!({"agent_id": "bob", "agent_type": "claude", "api_key": key, "auth_token": auth_token});
        let answer = client.call("authenticate_agent", who).await;
        assert_eq!(answer["code"], code, "{name}: {answer}");
    }
}

/// A token must not do more than its agent's type allows, whatever was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn permissions_end_where_the_type_ends() {
    let server = with_key(&SHARED.database().await).await;
    let client = &server.client;
    let session = {
        let token = token(client, "ann", "claude", &["read", "write"]).await;
        client
            .call("create_session", json!({"purpose": "p", "auth_token": token}))
            .await["session_id"]
            .clone()
    };
    let message = |token: &str, visibility: &str| json!({"session_id": session, "content": "m", "visibility": visibility, "auth_token": token});
    for (agent_type, requested, may_write, may_admin) in [
        ("claude", &["read", "write", "admin"][..], true, false),
        ("claude", &["read"], false, false),
        ("generic", &["read", "write"], false, false),
        ("admin", &["read", "write"], true, false),
        ("admin", &["write", "admin"], true, true),
        ("admin", &["admin"], false, false),
    ] {
        let token = token(client, "x", agent_type, requested).await;
        let written = client.call("add_message", message(&token, "public")).await;
        assert_eq!(written["success"], may_write, "{agent_type} {requested:?}: {written}");
        let written = client.call("add_message", message(&token, "admin_only")).await;
        assert_eq!(written["success"], may_admin, "{agent_type} {requested:?}: {written}");
    }
    let nothing = client
        .call(
            "authenticate_agent",
            json!({"agent_id": "x", "agent_type": "generic", "requested_permissions": ["write"], "api_key": KEY}),
        )
        .await;
    assert_eq!(nothing["code"], "PERMISSION_DENIED");
    let write_only = token(client, "x", "claude", &["write"]).await;
    let read = client
        .call("get_messages", json!({"session_id": session, "auth_token": write_only}))
        .await;
    assert_eq!(read["code"], "PERMISSION_DENIED");
}

/// A refreshed token works, the old one has ended, and a token cannot be refreshed twice.
#[tokio::test(flavor = "multi_thread")]
async fn refreshing_ends_the_old_token() {
    let url = SHARED.database().await;
    let server = with_key(&url).await;
    let client = &server.client;
    let old = token(client, "ann", "claude", &["read", "write"]).await;
    let set = |token: &str| json!({"key": "k", "value": 1, "auth_token": token});
    assert_eq!(client.call("set_memory", set(&old)).await["success"], true);
    let refreshed = client.call("refresh_token", json!({"current_token": old})).await;
    let new = refreshed["token"].as_str().unwrap();
    assert!(new != old && refreshed["expires_in"] == 86400);
    assert_eq!(client.call("set_memory", set(new)).await["success"], true);
    assert_eq!(
        client.call("set_memory", set(&old)).await["code"],
        "TOKEN_AUTHENTICATION_FAILED"
    );
    let again = client.call("refresh_token", json!({"current_token": old})).await;
    assert_eq!(again["code"], "TOKEN_REFRESH_FAILED");

    // Another replica that has not seen the token asks the database.
    let other = with_key(&url).await;
    assert_eq!(other.client.call("set_memory", set(new)).await["success"], true);
    connect(&url)
        .await
        .execute("UPDATE secure_tokens SET expires_at = now()", &[])
        .await
        .unwrap();
    let third = with_key(&url).await;
    assert_eq!(
        third.client.call("set_memory", set(new)).await["code"],
        "TOKEN_AUTHENTICATION_FAILED",
        "an expired token proves nothing"
    );
}

/// Without keys anybody can be anybody, so nothing may be had that a claim would not give; and once there are keys,
/// what was given before is worth nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_open_server_prove_nothing() {
    let url = SHARED.database().await;
    let open = TestServer::start(settings(&url)).await;
    let issued = open
        .client
        .call(
            "authenticate_agent",
            json!({"agent_id": "ann", "agent_type": "admin", "requested_permissions": ["read", "write", "admin", "debug"]}),
        )
        .await;
    assert_eq!(issued["permissions"], json!(["read", "write"]), "{issued}");
    let token = issued["token"].clone();
    let memory = json!({"key": "k", "value": 1, "auth_token": token});
    assert_eq!(open.client.call("set_memory", memory.clone()).await["success"], true);

    let closed = with_key(&url).await;
    assert_eq!(
        closed.client.call("set_memory", memory).await["code"],
        "TOKEN_AUTHENTICATION_FAILED"
    );
    assert_eq!(
        closed
            .client
            .call("refresh_token", json!({"current_token": token}))
            .await["code"],
        "TOKEN_REFRESH_FAILED"
    );
}

/// Whoever steals the database must not be able to call as an agent: neither tokens nor keys may be in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_database_holds_no_usable_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let server = with_key(&format!("sqlite:{}", path.display())).await;
    let token = token(&server.client, "ann", "claude", &["read"]).await;
    let read = json!({"session_id": "all", "auth_token": token});
    assert_eq!(server.client.call("list_memory", read).await["success"], true);
    let uuid = token.trim_start_matches("sct_").to_owned();
    let forms = [uuid.clone(), uuid.replace('-', ""), KEY.to_owned()];
    let mut seen = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        seen += bytes.len();
        for form in &forms {
            assert!(
                !bytes.windows(form.len()).any(|window| window == form.as_bytes()),
                "{form:?} is in the files of the database"
            );
        }
    }
    assert!(seen > 1000);
}

/// A token is found by its hash alone, ends when its time is over, and is replaced once, however many try.
#[tokio::test]
async fn tokens_are_stored_and_end() {
    for database in both().await {
        let (kind, storage) = (database.kind, &database.storage);
        let hash = |byte| TokenHash([byte; 32]);
        let new = NewToken {
            agent_id: "ann".to_owned(),
            agent_type: "claude".to_owned(),
            permissions: [Permission::Write, Permission::Read].into(),
            is_proven: true,
            key_id: None,
        };
        let hour = Duration::from_hours(1);
        let issued = storage.issue_token(hash(1), new, hour).await.unwrap();
        assert_eq!(
            issued.expires_at.duration_since(issued.issued_at).as_secs(),
            3600,
            "{kind}"
        );
        assert_eq!(
            storage.token_claims(hash(1)).await.unwrap(),
            Some(issued.clone()),
            "{kind}"
        );
        assert_eq!(storage.token_claims(hash(2)).await.unwrap(), None, "{kind}");
        let replacing = (10..18).map(|byte| storage.replace_token(hash(1), hash(byte), hour));
        let replaced: Vec<_> = futures::future::join_all(replacing)
            .await
            .into_iter()
            .filter_map(Result::unwrap)
            .collect();
        assert_eq!(replaced.len(), 1, "{kind}: one succeeds");
        assert_eq!(
            (&replaced[0].agent_id, &replaced[0].permissions, replaced[0].is_proven),
            (&issued.agent_id, &issued.permissions, true),
            "{kind}"
        );
        assert_eq!(storage.token_claims(hash(1)).await.unwrap(), None, "{kind}");
        let end = "UPDATE secure_tokens SET expires_at = issued_at";
        database.execute(end, end).await;
        for byte in 10..18 {
            assert_eq!(storage.token_claims(hash(byte)).await.unwrap(), None, "{kind}: expired");
            assert_eq!(
                storage.replace_token(hash(byte), hash(99), hour).await.unwrap(),
                None,
                "{kind}: expired"
            );
        }
    }
}

/// Every way to read, tried by an agent that should see nothing: the secret must be in no answer, whatever is asked.
#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_reads_nothing_of_others() {
    let server = with_key(&SHARED.database().await).await;
    let client = &server.client;
    let ann = token(client, "ann", "claude", &["read", "write"]).await;
    let root = token(client, "root", "admin", &["read", "write", "admin"]).await;
    let session = client
        .call("create_session", json!({"purpose": "p", "auth_token": ann}))
        .await["session_id"]
        .clone();
    let mut hidden = Vec::new();
    for (token, visibility) in [
        (&ann, "private"),
        (&ann, "agent_only"),
        (&root, "private"),
        (&root, "admin_only"),
    ] {
        let message = json!({
            "session_id": session, "content": "SECRET text", "visibility": visibility,
            "metadata": {"note": "SECRET"}, "auth_token": token,
        });
        hidden.push(client.call("add_message", message).await["message_id"].clone());
    }
    for scope in [json!(null), session.clone()] {
        let entry = json!({"key": "SECRET", "value": "SECRET", "session_id": scope, "auth_token": ann});
        assert_eq!(client.call("set_memory", entry).await["success"], true);
    }

    let eve = token(client, "eve", "gemini", &["read", "write", "admin"]).await;
    let mut attempts = vec![
        ("get_session", json!({"session_id": session})),
        ("get_messages", json!({"session_id": session, "limit": 1000})),
        ("get_memory", json!({"key": "SECRET"})),
        ("get_memory", json!({"key": "SECRET", "session_id": session})),
        ("list_memory", json!({})),
        ("list_memory", json!({"session_id": "all"})),
        ("list_memory", json!({"session_id": session})),
        ("list_memory", json!({"session_id": "all", "prefix": "S"})),
    ];
    for visibility in ["public", "private", "agent_only", "admin_only"] {
        attempts.push((
            "get_messages",
            json!({"session_id": session, "visibility_filter": visibility}),
        ));
    }
    for message in &hidden {
        attempts.push((
            "add_message",
            json!({"session_id": session, "content": "m", "parent_message_id": message}),
        ));
    }
    for (tool, mut arguments) in attempts {
        // Neither her own token nor pretending to be somebody else may help.
        arguments["auth_token"] = json!(eve);
        for claimed in [json!(null), json!("ann"), json!("root")] {
            arguments["agent_id"] = claimed;
            let response = client.tool(tool, &arguments).send().await.unwrap();
            let text = response.text().await.unwrap();
            // What she named herself may come back in an error.
            let asked = arguments["key"] == "SECRET" && text.contains("MEMORY_NOT_FOUND");
            assert!(asked || !text.contains("SECRET"), "{tool} {arguments}: {text}");
            assert!(
                tool != "add_message" || text.contains("parent_message_id"),
                "{tool} {arguments}: {text}"
            );
        }
    }
    let page = client
        .call("get_messages", json!({"session_id": session, "auth_token": eve}))
        .await;
    assert_eq!(
        (&page["total_count"], &page["count"]),
        (&json!(0), &json!(0)),
        "not even the number of hidden messages shows"
    );
    let own = client
        .call("get_messages", json!({"session_id": session, "auth_token": ann}))
        .await;
    assert_eq!(own["count"], 2, "the secrets are there for their owner");
    let admin = client
        .call("get_messages", json!({"session_id": session, "auth_token": root}))
        .await;
    assert_eq!(
        admin["count"], 2,
        "an administrator sees admin_only and its own: {admin}"
    );
}

/// A caller whose API key was verified in front of the tools is the agent of its own name, whatever it claims: two
/// callers must not read each other's messages, and must not get tokens in each other's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_verified_caller_is_the_agent_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        generate(name, &scopes).unwrap()
    };
    let (ann, bob, eve, root) = (
        key("ann", &["agent-type:claude"]),
        key("bob", &["agent-type:claude"]),
        key("eve", &["read", "write"]),
        key("root", &["mcp:admin", "mcp:read"]),
    );
    let file = folder.path().join("keys");
    std::fs::write(&file, [&ann, &bob, &eve, &root].map(|key| key.line.as_str()).join("\n")).unwrap();
    let url = SHARED.database().await;
    let before = TestServer::start(settings(&url)).await;
    let unproven = before
        .client
        .call("authenticate_agent", json!({"agent_id": "ann", "agent_type": "claude"}))
        .await["token"]
        .clone();
    let mut settings = settings(&url);
    settings.auth.method = Method::ApiKey { file };
    let server = TestServer::start(settings).await;
    let call = async |key: &str, tool: &str, arguments: Value| {
        structured(server.client.tool(tool, &arguments).header("x-api-key", key)).await
    };

    let session = call(&ann.key, "create_session", json!({"purpose": "p", "agent_id": "eve"})).await;
    assert_eq!(session["created_by"], "ann", "what is proven counts");
    let id = &session["session_id"];
    let secret = json!({"session_id": id, "content": "SECRET", "visibility": "private"});
    assert_eq!(call(&ann.key, "add_message", secret).await["success"], true);
    let memory = json!({"key": "k", "value": "SECRET"});
    assert_eq!(call(&ann.key, "set_memory", memory).await["success"], true);
    for (name, arguments) in [
        ("as herself", json!({"session_id": id})),
        ("as ann", json!({"session_id": id, "agent_id": "ann"})),
        (
            "with a token that proves nothing",
            json!({"session_id": id, "auth_token": unproven}),
        ),
    ] {
        let text = call(&eve.key, "get_messages", arguments).await.to_string();
        assert!(!text.contains("SECRET"), "{name}: {text}");
    }
    let read = call(&eve.key, "get_memory", json!({"key": "k", "agent_id": "ann"})).await;
    assert_eq!(read["code"], "MEMORY_NOT_FOUND");

    let authenticate = |agent_id: &str, permissions: &[&str]| json!({"agent_id": agent_id, "agent_type": "admin", "requested_permissions": permissions});
    for (name, key, arguments, expected) in [
        ("another's name", &eve.key, authenticate("ann", &["read"]), json!(null)),
        (
            "a name that begins alike",
            &eve.key,
            authenticate("evelyn", &["read"]),
            json!(null),
        ),
        (
            "her own",
            &eve.key,
            authenticate("eve", &["read", "admin"]),
            json!(["read"]),
        ),
        (
            "one of her own",
            &eve.key,
            authenticate("eve/helper", &["write"]),
            json!(["write"]),
        ),
        (
            "an administrator's",
            &root.key,
            authenticate("root", &["read", "write", "admin"]),
            json!(["read", "admin"]),
        ),
    ] {
        let answer = call(key, "authenticate_agent", arguments).await;
        assert_eq!(answer["permissions"], expected, "{name}: {answer}");
    }
    // Whoever could choose its type would read what is meant for that type alone.
    let token = async |key: &str, name: &str| {
        let who = json!({"agent_id": name, "agent_type": "claude", "requested_permissions": ["read", "write"]});
        call(key, "authenticate_agent", who).await["token"].clone()
    };
    let to_claudes = json!({"session_id": id, "content": "TO CLAUDES", "visibility": "agent_only", "auth_token": token(&ann.key, "ann").await});
    assert_eq!(call(&ann.key, "add_message", to_claudes).await["success"], true);
    for (name, key, expected) in [("bob", &bob.key, true), ("eve", &eve.key, false)] {
        let read = json!({"session_id": id, "auth_token": token(key, name).await});
        let text = call(key, "get_messages", read).await.to_string();
        assert_eq!(text.contains("TO CLAUDES"), expected, "{name}: {text}");
    }
    let metrics = call(&root.key, "get_performance_metrics", json!({})).await;
    assert_eq!(metrics["success"], true, "{metrics}");
    let denied = call(&root.key, "create_session", json!({"purpose": "p"})).await;
    assert_eq!(denied["code"], "PERMISSION_DENIED", "its scopes name no write");
}

/// The lines of the audit log: agent, its type, action, session, target and outcome.
async fn audit_lines(database: &TestDatabase) -> Vec<String> {
    let sql = "SELECT agent_id || ' ' || coalesce(agent_type, '-') || ' ' || action || ' ' \
               || coalesce(session_id, '-') || ' ' || coalesce(target, '-') || ' ' || outcome \
               FROM audit_log ORDER BY id";
    if let Some(path) = database.url.strip_prefix("sqlite:") {
        let connection = rusqlite::Connection::open(path).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let lines = statement.query_map([], |row| row.get(0)).unwrap();
        lines.map(Result::unwrap).collect()
    } else {
        let lines = connect(&database.url).await.query(sql, &[]).await.unwrap();
        lines.iter().map(|line| line.get(0)).collect()
    }
}

/// Whoever has to find out who did what reads these lines: one that is missing, or says something else, hides it; and
/// what was not done must not be there.
#[tokio::test]
async fn every_write_leaves_its_line_in_the_audit_log() {
    const SESSION: &str = "session_0123456789abcdef";
    for database in both().await {
        let (kind, storage) = (database.kind, &database.storage);
        let session = NewSession {
            id: SESSION.to_owned(),
            purpose: "p".to_owned(),
            created_by: "ann".to_owned(),
            metadata: None,
        };
        storage.create_session(session, true).await.unwrap();
        let message = NewMessage {
            session_id: SESSION.to_owned(),
            sender: Agent {
                agent_type: Some("claude".to_owned()),
                ..Agent::named("bob")
            },
            content: "c".to_owned(),
            visibility: Visibility::Private,
            metadata: None,
            parent_message_id: None,
        };
        let message = storage.add_message(message).await.unwrap().id.to_string();
        let entry = |session_id: Option<&str>, overwrite| NewMemory {
            agent_id: "ann".to_owned(),
            session_id: session_id.map(str::to_owned),
            key: "k".to_owned(),
            value: json!("v"),
            metadata: None,
            expires_in: None,
            overwrite,
            has_quota: session_id.is_none(),
        };
        for session_id in [None, Some(SESSION)] {
            storage.set_memory(entry(session_id, true)).await.unwrap();
            let refused = storage.set_memory(entry(session_id, false)).await;
            assert!(matches!(refused, Err(StorageError::KeyExists)), "{kind}");
        }
        let token = NewToken {
            agent_id: "eve".to_owned(),
            agent_type: "gemini".to_owned(),
            permissions: [Permission::Read, Permission::Write].into(),
            is_proven: true,
            key_id: None,
        };
        let (old, new, hour) = (TokenHash([1; 32]), TokenHash([2; 32]), Duration::from_hours(1));
        storage.issue_token(old, token, hour).await.unwrap();
        storage.replace_token(old, new, hour).await.unwrap().unwrap();
        assert_eq!(storage.replace_token(old, new, hour).await.unwrap(), None, "{kind}");

        let expected = [
            format!("ann - create_session {SESSION} - ok"),
            format!("bob claude add_message {SESSION} {message} ok"),
            "ann - set_memory - k ok".to_owned(),
            format!("ann - set_memory {SESSION} k ok"),
            r#"eve gemini authenticate_agent - ["read","write"] ok"#.to_owned(),
            r#"eve gemini refresh_token - ["read","write"] ok"#.to_owned(),
        ];
        assert_eq!(audit_lines(&database).await, expected, "{kind}");
    }
}
