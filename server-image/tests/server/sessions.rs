//! Sessions of clients up to 2025-11-25 when a call, its client and its answers meet different replicas.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mcp_server::changes::Changes;
use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::mcp::sessions::{MIGRATIONS, SharedSessions, Stay};
use mcp_server::server::{Fixtures, Settings};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::client::{Client, LegacySession, last_event};
use crate::support::databases::both;
use crate::support::events::Events;
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

const WATCHED: &str = "test://watched-resource";

async fn two_replicas(change: impl Fn(&mut Settings)) -> (TestServer, TestServer) {
    let mut settings = settings(&SHARED.database().await);
    change(&mut settings);
    tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings))
}

fn with_fixtures(settings: &mut Settings) {
    settings.operation.fixtures = Fixtures::Conformance;
}

/// Starts a call and loses the connection after the first event; gives the id from which the stream goes on.
async fn begin_and_lose(session: &LegacySession, io_ms: u64) -> String {
    let call = session
        .tool("simulate_work", &json!({"io_ms": io_ms}))
        .send()
        .await
        .unwrap();
    let first = Events::of(call).next().await.unwrap();
    assert_eq!(first.message, Value::Null, "the first event holds only an id");
    first.id.unwrap()
}

fn resume(session: &LegacySession, last: &str) -> reqwest::RequestBuilder {
    session.get().header("last-event-id", last)
}

/// A client that loses its connection in the middle of a call must get the answer wherever it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_at_any_replica() {
    let (a, b) = two_replicas(|_| {}).await;
    let session = a.client.legacy_session().await;
    for (name, client) in [("where the call runs", &a.client), ("elsewhere", &b.client)] {
        let last = begin_and_lose(&session, 700).await;
        let mut rest = Events::of(resume(&session.at(client), &last).send().await.unwrap());
        let answer = rest.message().await;
        assert_eq!(
            answer["result"]["structuredContent"]["success"], true,
            "{name}: {answer}"
        );
        assert_eq!(rest.next().await, None, "{name}: the stream ends with the answer");
    }
}

/// An answer that was sent but never arrived must be there for a second try, once and complete.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_read_again() {
    let (a, b) = two_replicas(|_| {}).await;
    let session = a.client.legacy_session().await;
    let call = session.tool("simulate_work", &json!({})).send().await.unwrap();
    let mut call = Events::of(call);
    let (first, answer) = (call.next().await.unwrap(), call.next().await.unwrap());
    for client in [&a.client, &b.client] {
        let mut again = Events::of(
            resume(&session.at(client), first.id.as_ref().unwrap())
                .send()
                .await
                .unwrap(),
        );
        assert_eq!(again.message().await, answer.message);
        assert_eq!(again.next().await, None);
        let mut nothing = Events::of(
            resume(&session.at(client), answer.id.as_ref().unwrap())
                .send()
                .await
                .unwrap(),
        );
        while let Some(event) = nothing.next().await {
            assert_eq!(event.message, Value::Null, "there is nothing after the answer");
        }
    }
}

/// A rolling update ends the replica of a client whose connection has just broken. The answer must not go with it:
/// neither one that was there already, nor one that was still to come when nobody was connected any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_outlives_its_replica() {
    for (name, io_ms, running) in [("there already", 0, 0.0), ("still to come", 2_500, 1.0)] {
        let (a, b) = two_replicas(|_| {}).await;
        let session = a.client.legacy_session().await;
        let last = begin_and_lose(&session, io_ms).await;
        a.until_metric("mcp_in_flight_requests", running).await;
        a.server.drain();
        a.server.finished().await;
        let mut rest = Events::of(resume(&session.at(&b.client), &last).send().await.unwrap());
        let answer = rest.message().await;
        assert_eq!(
            answer["result"]["structuredContent"]["success"], true,
            "{name}: {answer}"
        );
        assert_eq!(rest.next().await, None, "{name}: the stream ends with the answer");
    }
}

/// Clients that got their answers must not push out the answer of one that did not: it would repeat its call, and what
/// the call wrote would be there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_outlasts_delivered_ones() {
    for database in both().await {
        let server = TestServer::start(settings(&database.url)).await;
        let session = server.client.legacy_session().await;
        let last = begin_and_lose(&session, 500).await;
        server.until_metric("mcp_in_flight_requests", 0.0).await;
        let others = server.client.legacy_session().await;
        for _ in 0..30 {
            let calls = (0..10).map(|_| others.call("simulate_work", json!({})));
            for answer in join_all(calls).await {
                assert_eq!(answer["success"], true);
            }
        }
        let mut rest = Events::of(resume(&session, &last).send().await.unwrap());
        let answer = rest.message().await;
        let kind = database.kind;
        assert_eq!(
            answer["result"]["structuredContent"]["success"], true,
            "{kind}: {answer}"
        );
    }
}

/// A proxy that restarts breaks all connections at once. Answers for which memory has no room must be found as well.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_without_room_go_to_the_database() {
    /// As many as memory has room for.
    const ROOM: i64 = 256;
    let url = SHARED.database().await;
    let server = TestServer::start(settings(&url)).await;
    let session = server.client.legacy_session().await;
    let mut lost = Vec::new();
    for _ in 0..20 {
        lost.extend(join_all((0..15).map(|_| begin_and_lose(&session, 300))).await);
        server.until_metric("mcp_in_flight_requests", 0.0).await;
    }
    let database = connect(&url).await;
    until("there is room in memory", async || {
        let left = "SELECT count(*) FROM mcp_stream_events WHERE is_last";
        let left: i64 = database.query_one(left, &[]).await.unwrap().get(0);
        (left + ROOM >= i64::try_from(lost.len()).unwrap()).then_some(())
    })
    .await;
    for (number, last) in lost.iter().enumerate() {
        let mut rest = Events::of(resume(&session, last).send().await.unwrap());
        let answer = rest.message().await;
        assert_eq!(
            answer["result"]["structuredContent"]["success"], true,
            "{number}: {answer}"
        );
        assert_eq!(rest.next().await, None, "{number}: the stream ends with the answer");
    }
}

/// Ids of events travel through logs and proxies: they must not open another client's answer.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_another_sessions_stream() {
    let (a, _b) = two_replicas(|_| {}).await;
    let mine = a.client.legacy_session().await;
    let another = a.client.legacy_session().await;
    let last = begin_and_lose(&mine, 300).await;
    for (name, id) in [("an id of mine", last.as_str()), ("no id at all", "garbage")] {
        let mut stolen = Events::of(resume(&another, id).send().await.unwrap());
        while let Some(event) = stolen.next().await {
            assert_eq!(event.message, Value::Null, "{name}");
        }
    }
    let mut rest = Events::of(resume(&mine, &last).send().await.unwrap());
    assert_eq!(rest.message().await["result"]["isError"], false);
}

/// Taking a session out of memory must not take a call with it that runs longer than the session may be idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_keeps_its_session() {
    let (a, _b) = two_replicas(|settings| settings.data.sessions.idle = Duration::from_millis(200)).await;
    let session = a.client.legacy_session().await;
    let answer = session.call("simulate_work", json!({"io_ms": 1500})).await;
    assert_eq!(answer["success"], true);
    a.until_metric("mcp_active_sessions", 0.0).await;
}

/// A client that gives up and asks again must not find its session broken, at whatever moment it gave up.
#[tokio::test(flavor = "multi_thread")]
async fn giving_up_in_the_middle_of_a_restoration_breaks_no_session() {
    let (a, b) = two_replicas(|_| {}).await;
    for looks in 0..60 {
        let session = a.client.legacy_session().await;
        let there = session.at(&b.client);
        let asked = there
            .tool("simulate_work", &json!({}))
            .header("host", "127.0.0.1")
            .build()
            .unwrap();
        let mut request: http::Request<axum::body::Body> =
            http::Request::new(asked.body().unwrap().as_bytes().unwrap().to_vec().into());
        *request.method_mut() = asked.method().clone();
        *request.uri_mut() = "/mcp".parse().unwrap();
        *request.headers_mut() = asked.headers().clone();
        give_up(b.server.router().oneshot(request), looks).await;

        let again = there.tool("simulate_work", &json!({})).send().await.unwrap();
        assert_eq!(again.status(), 200, "given up after {looks} looks");
        let answer = last_event(&again.text().await.unwrap());
        assert_eq!(
            answer["result"]["isError"], false,
            "given up after {looks} looks: {answer}"
        );
    }
}

/// Drops `asking` after having looked so many times whether it goes on; everything else goes on between two looks.
async fn give_up(asking: impl Future, looks: usize) {
    let mut asking = std::pin::pin!(asking);
    for _ in 0..looks {
        if futures::poll!(&mut asking).is_ready() {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
        tokio::task::yield_now().await;
    }
}

/// Clients that open sessions and never come back must not fill the memory of all; and those that do come back must not
/// notice that theirs was not in memory.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_sessions_leave_memory_and_come_back() {
    let mut settings = settings(&SHARED.database().await);
    settings.data.sessions.max = 3;
    let server = TestServer::start(settings).await;
    let mut sessions = Vec::new();
    let working = server.client.legacy_session().await;
    let call = working.tool("simulate_work", &json!({"io_ms": 4000}));
    let call = tokio::spawn(async move { call.send().await.unwrap().text().await.unwrap() });
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    for _ in 0..6 {
        sessions.push(server.client.legacy_session().await);
    }
    server.until_metric("mcp_active_sessions", 3.0).await;
    assert!(!call.is_finished(), "the call outlasts what leaves memory");
    for _ in 0..3 {
        let calls = sessions.iter().map(|session| session.call("simulate_work", json!({})));
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer["success"], true);
        }
    }
    let answer = last_event(&call.await.unwrap());
    assert_eq!(answer["result"]["structuredContent"]["success"], true, "{answer}");
    server.until_metric("mcp_active_sessions", 3.0).await;
}

/// A user who presses "stop" means the call, not the replica that the click happens to reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_from_any_replica() {
    let (a, b) = two_replicas(|_| {}).await;
    let session = a.client.legacy_session().await;
    let id = 4_711;
    let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "simulate_work", "arguments": {"io_ms": 60_000}}});
    let mut call = Events::of(session.post().json(&call).send().await.unwrap());
    call.next().await;
    a.until_metric("mcp_in_flight_requests", 1.0).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    let taken = session.at(&b.client).post().json(&cancel).send().await.unwrap();
    assert_eq!(taken.status(), 202);
    drop(call);
    a.until_metric("mcp_in_flight_requests", 0.0).await;
}

/// A tool asks its user something, and the answer arrives at another replica than the one where the tool waits. Two
/// tools of one session that ask at two replicas must each get their own answer.
#[tokio::test(flavor = "multi_thread")]
async fn answers_find_the_call_that_asked() {
    let (a, b) = two_replicas(with_fixtures).await;
    let session = a.client.legacy_session_with(json!({"elicitation": {}})).await;
    let mut asked = Vec::new();
    for client in [&a.client, &b.client] {
        let call = session
            .at(client)
            .tool("test_elicitation", &json!({"message": "Who are you?"}));
        let mut call = Events::of(call.send().await.unwrap());
        let question = call.message().await;
        assert_eq!(question["method"], "elicitation/create");
        asked.push((call, question["id"].clone()));
    }
    assert_ne!(asked[0].1, asked[1].1, "the client can tell the questions apart");
    for (number, (_, id)) in asked.iter().enumerate() {
        let content = json!({"username": format!("user {number}"), "email": "u@example.com"});
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": content}});
        // The question of replica a is answered at b, and the other way round.
        let client: &Client = if number == 0 { &b.client } else { &a.client };
        let taken = session.at(client).post().json(&answer).send().await.unwrap();
        assert_eq!(taken.status(), 202);
    }
    for (number, (mut call, _)) in asked.into_iter().enumerate() {
        let answer = call.message().await;
        let text = answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"));
        assert!(text.contains(&format!("user {number}")), "{text}");
    }
}

/// The next news of a kind; a replica that has just connected says once that any list may have changed.
async fn until_told(news: &mut Events, method: &str) -> Value {
    loop {
        let message = news.message().await;
        if message["method"] == method {
            return message;
        }
    }
}

/// A client subscribes at one replica, listens at a second, and the change happens at either.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_hold_at_every_replica() {
    let (a, b) = two_replicas(with_fixtures).await;
    let session = a.client.legacy_session().await;
    let mut news = Events::of(session.at(&b.client).get().send().await.unwrap());
    let subscribe = session
        .request("resources/subscribe", &json!({"uri": WATCHED}))
        .send()
        .await
        .unwrap();
    assert_eq!(last_event(&subscribe.text().await.unwrap())["result"], json!({}));
    until_told(&mut news, "notifications/resources/updated").await;
    for client in [&a.client, &b.client] {
        session.at(client).call("test_trigger_resource_change", json!({})).await;
        let told = until_told(&mut news, "notifications/resources/updated").await;
        assert_eq!(told["params"]["uri"], WATCHED);
    }
    let unsubscribe = session
        .at(&b.client)
        .request("resources/unsubscribe", &json!({"uri": WATCHED}));
    assert_eq!(
        last_event(&unsubscribe.send().await.unwrap().text().await.unwrap())["result"],
        json!({})
    );
    // At one replica news comes in order: what was still on its way comes before the change of the tools, and with the
    // second such change, that of the resource would have come.
    let change = async |tool| session.at(&b.client).call(tool, json!({})).await;
    change("test_trigger_tool_change").await;
    until_told(&mut news, "notifications/tools/list_changed").await;
    change("test_trigger_resource_change").await;
    change("test_trigger_tool_change").await;
    assert_eq!(news.message().await["method"], "notifications/tools/list_changed");
    let unknown = session
        .request("resources/subscribe", &json!({"uri": "test://nothing"}))
        .send()
        .await
        .unwrap();
    assert_eq!(last_event(&unknown.text().await.unwrap())["error"]["code"], -32002);
}

/// A client that follows ever more resources fills the table that all sessions share.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_follows_so_many_resources_and_no_more() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    with_fixtures(&mut settings);
    let server = TestServer::start(settings).await;
    let session = server.client.legacy_session().await;
    let fill = "INSERT INTO mcp_session_subscriptions (session_id, uri) \
                SELECT $1, 'test://' || number FROM generate_series(1, 999) AS number";
    connect(&url).await.execute(fill, &[&session.id]).await.unwrap();
    let follow = async |uri: &str| {
        let request = session.request("resources/subscribe", &json!({"uri": uri}));
        last_event(&request.send().await.unwrap().text().await.unwrap())
    };
    assert_eq!(follow(WATCHED).await["result"], json!({}), "the thousandth");
    let refused = follow("test://static-text").await;
    assert_eq!(refused["error"]["code"], -32600, "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("unsubscribe"));
}

/// A resource that changes in the moment in which the client subscribes to one more: the client must hear of it, or it
/// shows what is no longer true.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_missed_while_subscriptions_change() {
    let mut settings = settings(&SHARED.database().await);
    with_fixtures(&mut settings);
    let server = TestServer::start(settings).await;
    let session = server.client.legacy_session().await;
    let mut news = Events::of(session.get().send().await.unwrap());
    let subscribe = async || {
        let request = session.request("resources/subscribe", &json!({"uri": WATCHED}));
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    subscribe().await;
    until_told(&mut news, "notifications/resources/updated").await;
    for _ in 0..50 {
        tokio::join!(
            subscribe(),
            session.call("test_trigger_resource_change", json!({})),
            until_told(&mut news, "notifications/resources/updated"),
        );
    }
}

/// A call that nobody waits for any more may be done all the same, and who follows what it changes must hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_told_when_its_caller_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let server = TestServer::start(settings(&format!("sqlite:{}", path.display()))).await;
    let created = server.client.call("create_session", json!({"purpose": "told"})).await;
    let session = server.client.legacy_session().await;
    let mut news = Events::of(session.get().send().await.unwrap());
    let uri = format!("session://{}", created["session_id"].as_str().unwrap());
    let subscribe = session.request("resources/subscribe", &json!({"uri": uri}));
    assert_eq!(
        last_event(&subscribe.send().await.unwrap().text().await.unwrap())["result"],
        json!({})
    );
    until_told(&mut news, "notifications/resources/updated").await;

    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let message = json!({"session_id": created["session_id"], "content": "late"});
    let call = tokio::spawn(server.client.tool("add_message", &message).send());
    server.until_at_file(1.0).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    other.execute_batch("COMMIT").unwrap();
    let told = until_told(&mut news, "notifications/resources/updated").await;
    assert_eq!(told["params"]["uri"], json!(uri));
}

/// A client that ended its session must not be served in it any longer, by no replica.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_ends_everywhere() {
    let (a, b) = two_replicas(|_| {}).await;
    let session = a.client.legacy_session().await;
    session.at(&b.client).call("simulate_work", json!({})).await;
    let mut news = Events::of(session.at(&b.client).get().send().await.unwrap());
    assert!(session.delete().await.status().is_success());
    until("the other replica has let go of the session", async || {
        let list = session
            .at(&b.client)
            .request("tools/list", &json!({}))
            .send()
            .await
            .unwrap();
        (list.status() == 404).then_some(())
    })
    .await;
    while news.next().await.is_some() {}
}

/// Events and letters of clients that went away must not fill the database.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_for_a_call_whose_client_stays() {
    let url = SHARED.database().await;
    let server = TestServer::start(settings(&url)).await;
    let session = server.client.legacy_session().await;
    for _ in 0..5 {
        session.call("simulate_work", json!({})).await;
    }
    let database = connect(&url).await;
    let rows = database
        .query_one(
            "SELECT (SELECT count(*) FROM mcp_stream_events) + (SELECT count(*) FROM mcp_letters)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.get::<_, i64>(0), 0);
}

/// The sessions of a replica that serves nobody.
async fn sessions_in(url: &str) -> Arc<SharedSessions> {
    let target: DatabaseTarget = url.parse().unwrap();
    let database = Database::open(&target, 2, &mut Registry::default()).unwrap();
    database.migrate(MIGRATIONS).await.unwrap();
    let stay = Stay {
        idle: Duration::from_mins(5),
        max: 10,
    };
    SharedSessions::new(&database, Changes::alone(), stay)
}

/// Clients that went away must not fill the database with their sessions; but whoever comes back within a week, or had
/// the session in use all the time, must find it, and what it follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_forgotten_after_a_week_without_use() {
    for database in both().await {
        let kind = database.kind;
        let sessions = sessions_in(&database.url).await;
        let cases = [
            ("new", 0, true),
            ("used six days ago", 6, true),
            ("used eight days ago", 8, false),
            ("opened eight days ago, in use", 8, true),
        ];
        for (id, days, _) in cases {
            let follow = format!("INSERT INTO mcp_session_subscriptions (session_id, uri) VALUES ('{id}', 'u');");
            let insert = "INSERT INTO mcp_sessions (id, state, used_at) VALUES";
            database
                .execute(
                    &format!("{insert} ('{id}', '{{}}', unixepoch() - {days} * 86400); {follow}"),
                    &format!("{insert} ('{id}', '{{}}', now() - interval '{days} days'); {follow}"),
                )
                .await;
        }
        let records = sessions.records();
        let in_use = vec!["opened eight days ago, in use".to_owned()];
        records.tidy(in_use).await.unwrap();
        // The replica where it was in use may be gone by now.
        sessions.tidy().await.unwrap();
        for (id, _, stays) in cases {
            assert_eq!(records.exists(id).await.unwrap(), stays, "{kind}: {id}");
            let follows = records.subscriptions(id).await.unwrap().len();
            assert_eq!(follows, usize::from(stays), "{kind}: what {id} follows");
        }
    }
}

/// A session is in memory only for moments if its client makes one call a day, or listens and makes none. It is in use
/// all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_rare_use_is_not_forgotten() {
    for database in both().await {
        let kind = database.kind;
        let mut settings = settings(&database.url);
        settings.data.sessions.idle = Duration::from_millis(200);
        let server = TestServer::start(settings).await;
        let called = server.client.legacy_session().await;
        let listening = server.client.legacy_session().await;
        let unused = server.client.legacy_session().await;
        let age = async |days: u32| {
            database
                .execute(
                    &format!("UPDATE mcp_sessions SET used_at = used_at - {days} * 86400"),
                    &format!("UPDATE mcp_sessions SET used_at = used_at - interval '{days} days'"),
                )
                .await;
        };
        server.until_metric("mcp_active_sessions", 0.0).await;
        age(6).await;
        assert_eq!(called.call("simulate_work", json!({})).await["success"], true);
        let follow = format!(
            "INSERT INTO mcp_session_subscriptions (session_id, uri) VALUES ('{}', 'u')",
            listening.id
        );
        database.execute(&follow, &follow).await;
        let mut news = Events::of(listening.get().send().await.unwrap());
        // Whoever begins to listen is told of what is followed, once the session was looked at.
        until_told(&mut news, "notifications/resources/updated").await;
        server.until_metric("mcp_active_sessions", 0.0).await;
        age(2).await;
        let sessions = sessions_in(&database.url).await;
        sessions.tidy().await.unwrap();
        for (name, session, stays) in [
            ("called", &called, true),
            ("listening", &listening, true),
            ("unused", &unused, false),
        ] {
            let is_there = sessions.records().exists(&session.id).await.unwrap();
            assert_eq!(is_there, stays, "{kind}: {name}");
        }
    }
}

/// Letters to replicas that are gone, and copies that nobody came for, must not fill the database. What may still be
/// read must stay: a stream lasts up to three minutes, and can be read for one more.
#[tokio::test(flavor = "multi_thread")]
async fn old_letters_and_copies_go_and_no_others() {
    let url = SHARED.database().await;
    let sessions = sessions_in(&url).await;
    let database = connect(&url).await;
    for (name, seconds) in [("new", 0), ("in time", 200), ("old", 250), ("very old", 5_000)] {
        database
            .batch_execute(&format!(
                "INSERT INTO mcp_letters (replica, letter, created_at) \
                 VALUES ('r', '{name}', now() - interval '{seconds} seconds'); \
                 INSERT INTO mcp_stream_events (stream, position, session_id, is_last, created_at) \
                 VALUES ('{name}', 0, 's', false, now() - interval '{seconds} seconds');"
            ))
            .await
            .unwrap();
    }
    sessions.tidy().await.unwrap();
    for left in [
        "SELECT letter FROM mcp_letters ORDER BY 1",
        "SELECT stream FROM mcp_stream_events ORDER BY 1",
    ] {
        let rows = database.query(left, &[]).await.unwrap();
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(names, ["in time", "new"], "{left}");
    }
}
