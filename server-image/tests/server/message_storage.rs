//! Sessions and messages: the same must hold in either database.

use futures::future::join_all;
use mcp_server::tools::shared_context::{
    Agent, MessageQuery, NewMessage, NewSession, Storage, StorageError, Visibility,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::databases::{TestDatabase, both};

const ALL: [Visibility; 4] = [
    Visibility::Public,
    Visibility::Private,
    Visibility::AgentOnly,
    Visibility::AdminOnly,
];

fn new_session(agent: &str) -> NewSession {
    NewSession {
        id: format!("session_{}", &Uuid::new_v4().simple().to_string()[..16]),
        purpose: "test".to_owned(),
        created_by: agent.to_owned(),
        metadata: Some(json!({"b": 1, "a": [1.5, null, "\u{0}"]})),
    }
}

fn new_message(session_id: &str, sender: &str, visibility: Visibility) -> NewMessage {
    NewMessage {
        session_id: session_id.to_owned(),
        sender: Agent::named(sender),
        content: format!("{} of {sender}", visibility.as_str()),
        visibility,
        metadata: None,
        parent_message_id: None,
    }
}

fn query(session_id: &str, reader: &str) -> MessageQuery {
    MessageQuery {
        session_id: session_id.to_owned(),
        reader: Agent::named(reader),
        visibility: None,
        limit: 1000,
        offset: 0,
    }
}

/// Adds `count` messages at once, whose content and metadata are what `sqlite` or `postgres` says.
async fn fill(database: &TestDatabase, session: &str, count: usize, sqlite: &str, postgres: &str) {
    let sqlite = format!(
        "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count}) \
         INSERT INTO messages (session_id, sender, visibility, created_at, content, metadata) \
         SELECT '{session}', 'ann', 'public', number, {sqlite} FROM numbers"
    );
    let postgres = format!(
        "INSERT INTO messages (session_id, sender, visibility, content, metadata) \
         SELECT '{session}', 'ann', 'public', {postgres} FROM generate_series(1, {count})"
    );
    database.execute(&sqlite, &postgres).await;
}

async fn contents(storage: &dyn Storage, query: MessageQuery) -> Vec<String> {
    storage
        .get_messages(query)
        .await
        .unwrap()
        .messages
        .into_iter()
        .map(|message| message.content)
        .collect()
}

/// A session must come back exactly as it was created, and an unknown one not at all.
#[tokio::test]
async fn sessions_come_back_as_created() {
    for database in both().await {
        let (kind, storage) = (database.kind, &database.storage);
        let session = new_session("ann");
        let created = storage.create_session(session.clone(), true).await.unwrap();
        let read = storage.session_header(&session.id).await.unwrap().unwrap();
        assert_eq!(created, read, "{kind}");
        assert_eq!(
            (read.metadata, read.purpose.as_str()),
            (session.metadata, "test"),
            "{kind}"
        );
        assert!(
            storage
                .session_header("session_0000000000000000")
                .await
                .unwrap()
                .is_none(),
            "{kind}"
        );
        assert!(
            storage
                .session_view("session_0000000000000000", &Agent::named("ann"), 50)
                .await
                .unwrap()
                .is_none(),
            "{kind}"
        );
    }
}

/// Nobody may read another agent's private messages: not in a page, not through a filter, not among recent ones, not
/// in the count.
#[tokio::test]
async fn private_messages_stay_private() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
        for sender in ["ann", "bob"] {
            for visibility in ALL {
                storage
                    .add_message(new_message(&session, sender, visibility))
                    .await
                    .unwrap();
            }
        }
        let of_ann = ["public of ann", "private of ann", "agent_only of ann", "public of bob"];
        let of_eve = ["public of ann", "public of bob"];
        for (reader, filter, expected) in [
            ("ann", None, &of_ann[..]),
            ("eve", None, &of_eve[..]),
            ("eve", Some(Visibility::Public), &of_eve[..]),
            ("eve", Some(Visibility::Private), &[]),
            ("eve", Some(Visibility::AgentOnly), &[]),
            ("eve", Some(Visibility::AdminOnly), &[]),
            ("ann", Some(Visibility::Private), &["private of ann"]),
            ("ann", Some(Visibility::AdminOnly), &[]),
            ("ann' OR '1'='1", None, &of_eve[..]),
            ("%", None, &of_eve[..]),
        ] {
            let page = storage
                .get_messages(MessageQuery {
                    visibility: filter,
                    ..query(&session, reader)
                })
                .await
                .unwrap();
            let read: Vec<&str> = page.messages.iter().map(|message| message.content.as_str()).collect();
            assert_eq!(read, expected, "{kind}: {reader} asks for {filter:?}");
            assert_eq!(
                page.total_count,
                i64::try_from(expected.len()).unwrap(),
                "{kind}: the count tells {reader} of hidden messages"
            );
        }
        let recent = storage
            .session_view(&session, &Agent::named("eve"), 50)
            .await
            .unwrap()
            .unwrap()
            .recent;
        let recent: Vec<&str> = recent.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(recent, ["public of bob", "public of ann"], "{kind}: newest first");
    }
}

/// What is meant for agents of one type, or for administrators, must reach them and nobody else. A type counts only if
/// it is proven: saying so must not open anything.
#[tokio::test]
async fn messages_for_a_type_and_for_administrators() {
    let of_type = |id: &str, agent_type: &str| Agent {
        agent_type: Some(agent_type.to_owned()),
        ..Agent::named(id)
    };
    let admin = Agent {
        is_admin: true,
        ..of_type("root", "admin")
    };
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
        let unproven = Agent::named("una");
        for sender in [&of_type("ann", "claude"), &admin, &unproven] {
            for visibility in ALL {
                let message = NewMessage {
                    sender: sender.clone(),
                    ..new_message(&session, &sender.id, visibility)
                };
                storage.add_message(message).await.unwrap();
            }
        }
        let public = ["public of ann", "public of root", "public of una"];
        for (name, reader, beyond_public) in [
            (
                "the sender",
                of_type("ann", "claude"),
                &["private of ann", "agent_only of ann"][..],
            ),
            ("the same type", of_type("bob", "claude"), &["agent_only of ann"]),
            ("another type", of_type("bob", "gemini"), &[]),
            ("an empty type", of_type("bob", ""), &[]),
            ("no type", Agent::named("bob"), &[]),
            (
                "no type, as the unproven sender",
                unproven.clone(),
                &["private of una", "agent_only of una"],
            ),
            (
                "an administrator",
                admin.clone(),
                &[
                    "admin_only of ann",
                    "private of root",
                    "agent_only of root",
                    "admin_only of root",
                    "admin_only of una",
                ],
            ),
            ("the type admin alone", of_type("eve", "admin"), &["agent_only of root"]),
        ] {
            let read = contents(
                storage,
                MessageQuery {
                    reader: reader.clone(),
                    ..query(&session, "")
                },
            )
            .await;
            let mut expected: Vec<&str> = public.iter().chain(beyond_public).copied().collect();
            let mut read: Vec<&str> = read.iter().map(String::as_str).collect();
            expected.sort_unstable();
            read.sort_unstable();
            assert_eq!(read, expected, "{kind}: {name}");
            let view = storage.session_view(&session, &reader, 50).await.unwrap().unwrap();
            assert_eq!(view.recent.len(), expected.len(), "{kind}: {name}: the session's view");
        }
    }
}

/// Paging through a session must show each message once, in order.
#[tokio::test]
async fn pages_are_complete_and_in_order() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
        let ids: Vec<i64> = {
            let additions = (0..7).map(|_| storage.add_message(new_message(&session, "ann", Visibility::Public)));
            let mut ids: Vec<i64> = join_all(additions)
                .await
                .into_iter()
                .map(|stored| stored.unwrap().id)
                .collect();
            ids.sort_unstable();
            ids
        };
        let mut seen = Vec::new();
        for (offset, expected) in [(0, 3), (3, 3), (6, 1), (9, 0)] {
            let page = storage
                .get_messages(MessageQuery {
                    limit: 3,
                    offset,
                    ..query(&session, "eve")
                })
                .await
                .unwrap();
            assert_eq!(
                (page.messages.len(), page.total_count),
                (expected, 7),
                "{kind}: from {offset}"
            );
            seen.extend(page.messages.into_iter().map(|message| message.id));
        }
        assert_eq!(seen, ids, "{kind}");
        let unknown = storage.get_messages(query("session_0000000000000000", "ann")).await;
        assert!(matches!(unknown, Err(StorageError::SessionNotFound)), "{kind}");
    }
}

/// A thousand long messages in one page would be more memory than a pod has. A page ends before, and going on where it
/// ended shows each message once.
#[tokio::test]
async fn pages_of_long_messages_have_fewer() {
    for (name, count, sqlite, postgres, expected) in [
        (
            "long content",
            50,
            "replace(hex(zeroblob(50000)), '0', 'ü'), NULL",
            "repeat('ü', 100000), NULL",
            &[21, 21, 8][..],
        ),
        (
            "long metadata",
            450,
            r#"'m', '{"m":"' || replace(hex(zeroblob(5000)), '0', 'x') || '"}'"#,
            r#"'m', '{"m":"' || repeat('x', 10000) || '"}'"#,
            &[420, 30],
        ),
    ] {
        for database in both().await {
            let (kind, storage) = (database.kind, &*database.storage);
            let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
            fill(&database, &session, count, sqlite, postgres).await;
            let (mut pages, mut ids) = (Vec::new(), Vec::new());
            while ids.len() < count {
                let next = MessageQuery {
                    offset: i64::try_from(ids.len()).unwrap(),
                    ..query(&session, "eve")
                };
                let page = storage.get_messages(next).await.unwrap();
                assert_eq!(page.total_count, i64::try_from(count).unwrap(), "{kind}, {name}");
                assert!(!page.messages.is_empty(), "{kind}, {name}: it never ends");
                pages.push(page.messages.len());
                ids.extend(page.messages.into_iter().map(|message| message.id));
            }
            assert_eq!(pages, expected, "{kind}, {name}");
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{kind}, {name}: {ids:?}");

            let view = storage.session_view(&session, &Agent::named("eve"), 1000).await;
            let recent = view.unwrap().unwrap().recent;
            let recent: Vec<i64> = recent.into_iter().map(|message| message.id).collect();
            let newest: Vec<i64> = ids.iter().rev().take(expected[0]).copied().collect();
            assert_eq!(recent, newest, "{kind}, {name}: the newest first");
        }
    }
}

/// An answer must belong to its session, and must not reveal whether a hidden message exists.
#[tokio::test]
async fn answers_refer_to_messages_the_sender_may_read() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
        let other = storage.create_session(new_session("ann"), true).await.unwrap().id;
        let public = storage
            .add_message(new_message(&session, "ann", Visibility::Public))
            .await
            .unwrap()
            .id;
        let private = storage
            .add_message(new_message(&session, "ann", Visibility::Private))
            .await
            .unwrap()
            .id;
        let elsewhere = storage
            .add_message(new_message(&other, "ann", Visibility::Public))
            .await
            .unwrap()
            .id;
        for (name, sender, parent, allowed) in [
            ("a public message", "bob", public, true),
            ("one's own private message", "ann", private, true),
            ("another's private message", "bob", private, false),
            ("a message of another session", "ann", elsewhere, false),
            ("a message that does not exist", "ann", 1_000_000, false),
        ] {
            let answer = NewMessage {
                parent_message_id: Some(parent),
                ..new_message(&session, sender, Visibility::Public)
            };
            match storage.add_message(answer).await {
                Ok(_) => assert!(allowed, "{kind}: answering {name}"),
                Err(StorageError::ParentNotFound) => assert!(!allowed, "{kind}: answering {name}"),
                Err(error) => panic!("{kind}: answering {name}: {error}"),
            }
        }
        assert_eq!(
            contents(storage, query(&session, "eve")).await.len(),
            3,
            "{kind}: refused answers are not stored"
        );
    }
}

/// A full, closed or unknown session takes no message, and the limit is exact even when many arrive at once.
#[tokio::test]
async fn full_closed_and_unknown_sessions_take_no_messages() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = storage.create_session(new_session("ann"), true).await.unwrap().id;
        let nearly_full = "UPDATE sessions SET message_count = 9997";
        database.execute(nearly_full, nearly_full).await;
        let additions = (0..10).map(|_| storage.add_message(new_message(&session, "ann", Visibility::Public)));
        let results = join_all(additions).await;
        let full = results
            .iter()
            .filter(|result| matches!(result, Err(StorageError::SessionFull { .. })))
            .count();
        assert_eq!(
            (full, contents(storage, query(&session, "ann")).await.len()),
            (7, 3),
            "{kind}"
        );

        let closed = "UPDATE sessions SET message_count = 0, is_active = false";
        database.execute(closed, closed).await;
        let refused = storage
            .add_message(new_message(&session, "ann", Visibility::Public))
            .await;
        assert!(matches!(refused, Err(StorageError::SessionClosed)), "{kind}");
        let unknown = storage
            .add_message(new_message("session_0000000000000000", "ann", Visibility::Public))
            .await;
        assert!(matches!(unknown, Err(StorageError::SessionNotFound)), "{kind}");
    }
}

/// One agent must not fill the server with sessions, not even by asking often at once; unused ones stop counting.
#[tokio::test]
async fn an_agent_has_at_most_fifty_sessions_in_use() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let results = join_all((0..60).map(|_| storage.create_session(new_session("ann"), true))).await;
        let created = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(created, 50, "{kind}");
        assert!(
            results
                .iter()
                .all(|result| matches!(result, Ok(_) | Err(StorageError::TooManySessions { .. }))),
            "{kind}"
        );
        storage
            .create_session(new_session("bob"), true)
            .await
            .expect("another agent is not affected");
        storage
            .create_session(new_session("ann"), false)
            .await
            .expect("no limit without a quota");
        database
            .execute(
                "UPDATE sessions SET updated_at = updated_at - 3601000000",
                "UPDATE sessions SET updated_at = updated_at - interval '3601 s'",
            )
            .await;
        storage
            .create_session(new_session("ann"), true)
            .await
            .expect("sessions unused for an hour do not count");
    }
}
