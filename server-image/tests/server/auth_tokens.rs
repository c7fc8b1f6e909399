//! `--auth jwt`: who gets in with a token, who does not, and what happens while the identity provider changes its keys
//! or is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mcp_server::auth::keys::{Keys, NoKey, PAUSE, UNKNOWN};
use mcp_server::auth::metrics::AuthMetrics;
use mcp_server::auth::{Method, ScopeRules};
use prometheus_client::registry::Registry;
use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::issuer::{AUDIENCE, Health, Issuer, Signer, base64url, claims_by, in_seconds, settings_for};
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

async fn start(auth: mcp_server::auth::Settings) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    settings.auth = auth;
    (TestServer::start(settings).await, folder)
}

fn rules(every_request: &[&'static str], tools: &[&'static str]) -> ScopeRules {
    ScopeRules::new(every_request.iter().copied(), tools.iter().copied()).unwrap()
}

async fn call(server: &TestServer, token: &str) -> Response {
    let client = server.client.with_token(token);
    client.tool("simulate_work", &json!({})).send().await.unwrap()
}

async fn status(server: &TestServer, token: &str) -> u16 {
    call(server, token).await.status().as_u16()
}

fn challenge(response: &Response) -> String {
    let value = response.headers().get("www-authenticate");
    value
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

/// Waits until the server has fetched the provider's keys for the first time.
async fn keys_are_there(server: &TestServer) {
    until("the keys are there", async || {
        let fetches = server.scrape().await;
        fetches
            .sum("mcp_auth_key_fetches_total", &[("result", "ok")])
            .filter(|count| *count > 0.0)
    })
    .await;
}

/// `claims` with some of them changed, or left out if null.
fn with(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.as_object().unwrap().clone();
    claims.extend(changes.as_object().unwrap().clone());
    claims.retain(|_, value| !value.is_null());
    Value::Object(claims)
}

fn header(signer: &Signer, change: impl FnOnce(&mut Header)) -> Header {
    let mut header = signer.header();
    change(&mut header);
    header
}

/// Every kind of key that a provider uses opens the door.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_this_server_open_it() {
    let (curve, curve384) = (Signer::new("curve"), Signer::of("curve384", Algorithm::ES384));
    let (rsa, edwards) = (
        Signer::of("rsa", Algorithm::RS256),
        Signer::of("edwards", Algorithm::EdDSA),
    );
    let issuer = Issuer::start(&[&curve, &curve384, &rsa, &edwards]).await;
    let (server, _folder) = start(issuer.settings(ScopeRules::default())).await;
    let fine = issuer.claims();
    let with = |changes: Value| with(&fine, &changes);
    for (name, token) in [
        ("ES256", curve.token(&fine)),
        ("ES384", curve384.token(&fine)),
        ("RS256", rsa.token(&fine)),
        ("EdDSA", edwards.token(&fine)),
        (
            "one audience of several",
            curve.token(&with(json!({"aud": ["other", AUDIENCE]}))),
        ),
        (
            "expired within the leeway",
            curve.token(&with(json!({"exp": in_seconds(-10)}))),
        ),
        (
            "early within the leeway",
            curve.token(&with(json!({"nbf": in_seconds(10)}))),
        ),
        (
            "time with a fraction",
            curve.token(&with(json!({"exp": 4_102_444_800.5}))),
        ),
        (
            "no key id",
            curve.token_with(&header(&curve, |header| header.kid = None), &fine),
        ),
        (
            "type at+jwt",
            curve.token_with(&header(&curve, |header| header.typ = Some("at+jwt".to_owned())), &fine),
        ),
    ] {
        assert_eq!(status(&server, &token).await, 200, "{name}");
    }
}

/// Whoever gets in with less than a whole, current token for this server reads other people's data.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_token_opens_it() {
    let (curve, rsa) = (Signer::new("curve"), Signer::of("rsa", Algorithm::RS256));
    let issuer = Issuer::start(&[&curve, &rsa]).await;
    let (server, _folder) = start(issuer.settings(ScopeRules::default())).await;
    let claims = wrong_claims(&issuer)
        .into_iter()
        .map(|(name, claims, why)| (name, curve.token(&claims), why));
    for (name, token, why) in claims.chain(forgeries(&issuer, &curve, &rsa)) {
        let response = call(&server, &token).await;
        let challenge = challenge(&response);
        assert_eq!(response.status(), 401, "{name}");
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains(r#"error="invalid_token""#),
            "{name}: {challenge}"
        );
        assert!(challenge.contains(why), "{name}: {challenge}");
        let body = response.text().await.unwrap();
        assert!(!body.contains(&token) || token == "x", "{name}: no token in an answer");
        assert_eq!(status(&server, &token).await, 401, "{name}: the second time too");
    }
}

fn wrong_claims(issuer: &Issuer) -> Vec<(&'static str, Value, &'static str)> {
    let fine = issuer.claims();
    let with = |changes: Value| with(&fine, &changes);
    vec![
        ("expired", with(json!({"exp": in_seconds(-31)})), "expired"),
        ("never expires", with(json!({"exp": null})), "claims"),
        ("early", with(json!({"nbf": in_seconds(60)})), "not valid yet"),
        (
            "another audience",
            with(json!({"aud": "https://other.example"})),
            "another audience",
        ),
        (
            "part of the audience",
            with(json!({"aud": "https://context.example"})),
            "another audience",
        ),
        ("no audience", with(json!({"aud": null})), "lacks"),
        (
            "another issuer",
            with(json!({"iss": "https://other.example"})),
            "another issuer",
        ),
        (
            "issuer with a slash more",
            with(json!({"iss": format!("{}/", issuer.url)})),
            "another issuer",
        ),
        ("several issuers", with(json!({"iss": [issuer.url, "x"]})), "claims"),
        ("no subject", with(json!({"sub": null})), "claims"),
        ("odd subject", with(json!({"sub": "a\nb"})), "subject"),
    ]
}

fn forgeries(issuer: &Issuer, curve: &Signer, rsa: &Signer) -> Vec<(&'static str, String, &'static str)> {
    let fine = issuer.claims();
    let stranger = Signer::new("curve");
    let public = serde_json::to_vec(&curve.public()).unwrap();
    let mut shared = Header::new(Algorithm::HS256);
    shared.kid = Some("curve".to_owned());
    let unsigned = base64url(br#"{"alg":"none","typ":"JWT"}"#);
    let unsigned = format!("{unsigned}.{}.", base64url(fine.to_string().as_bytes()));
    let whole = curve.token(&fine);
    let (body, signature) = whole.rsplit_once('.').unwrap();
    let (head, _) = body.split_once('.').unwrap();
    let root = with(&fine, &json!({"sub": "root"})).to_string();
    let own_key = header(&stranger, |header| {
        header.jwk = Some(stranger.public());
        header.jku = Some(format!("{}/keys", issuer.url));
    });
    let logout = header(curve, |header| header.typ = Some("logout+jwt".to_owned()));
    let critical = header(curve, |header| header.crit = Some(vec!["b64".to_owned()]));
    let other_family = header(rsa, |header| header.kid = Some("curve".to_owned()));
    vec![
        (
            "a stranger's key under a known name",
            stranger.token(&fine),
            "signature",
        ),
        (
            "a stranger's key in the token itself",
            stranger.token_with(&own_key, &fine),
            "signature",
        ),
        (
            "changed claims",
            format!("{head}.{}.{signature}", base64url(root.as_bytes())),
            "signature",
        ),
        (
            "public key as a shared secret",
            encode(&shared, &fine, &EncodingKey::from_secret(&public)).unwrap(),
            "algorithm",
        ),
        ("no algorithm", unsigned, "not a JWT"),
        (
            "algorithm of another kind of key",
            rsa.token_with(&other_family, &fine),
            "for the token's algorithm",
        ),
        ("logout token", curve.token_with(&logout, &fine), "type"),
        ("critical extension", curve.token_with(&critical, &fine), "critical"),
        ("signature cut off", body.to_owned(), "not a JWT"),
        ("four parts", format!("{whole}.x"), "not a JWT"),
        ("not a token", "x".to_owned(), "not a JWT"),
    ]
}

/// What could be read in two ways is refused: a proxy in front may have checked the other one.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_credentials_are_refused() {
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let (server, _folder) = start(issuer.settings(ScopeRules::default())).await;
    let token = signer.token(&issuer.claims());
    let tool = || server.client.tool("simulate_work", &json!({}));
    let bearer = format!("Bearer {token}");
    let url = format!("http://{}/mcp?access_token={token}", server.server.mcp);
    for (name, request, expected) in [
        (
            "case of scheme and header",
            tool().header("AUTHORIZATION", format!("bearer {token}")),
            200,
        ),
        (
            "two headers",
            tool()
                .header("authorization", &bearer)
                .header("Authorization", "Bearer x"),
            400,
        ),
        (
            "two equal headers",
            tool().header("authorization", &bearer).header("Authorization", &bearer),
            400,
        ),
        (
            "two in one",
            tool().header("authorization", format!("{bearer}, {bearer}")),
            400,
        ),
        ("another scheme", tool().basic_auth("a", Some("b")), 400),
        ("very long", tool().bearer_auth("a".repeat(17 * 1024)), 400),
        ("in the URL", reqwest::Client::new().post(url), 400),
        ("none", tool(), 401),
        ("as API key", tool().header("x-api-key", &token), 401),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expected, "{name}");
        if expected != 200 {
            let body: Value = response.json().await.unwrap();
            assert_eq!(
                (&body["jsonrpc"], &body["error"]["code"]),
                (&json!("2.0"), &json!(-32000)),
                "{name}: {body}"
            );
        }
    }
    assert_eq!(
        (server.probe("healthz").await, server.probe("readyz").await),
        (200, 200),
        "probes need no credential"
    );
}

/// A client finds the way to a token by itself: from the 401 to the metadata to the provider.
#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_where_to_get_a_token() {
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let (server, _folder) = start(issuer.settings(rules(&["mcp:read"], &["set_memory=mcp:write"]))).await;
    let response = server.client.tool("simulate_work", &json!({})).send().await.unwrap();
    let challenge = challenge(&response);
    assert_eq!(response.status(), 401);
    let metadata = format!("http://{}/.well-known/oauth-protected-resource/mcp", server.server.mcp);
    assert_eq!(
        challenge,
        format!(r#"Bearer scope="mcp:read", resource_metadata="{metadata}""#)
    );
    for url in [metadata.as_str(), metadata.trim_end_matches("/mcp")] {
        let document: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        assert_eq!(document["resource"], format!("http://{}/mcp", server.server.mcp));
        assert_eq!(document["authorization_servers"], json!([issuer.url]));
        assert_eq!(document["scopes_supported"], json!(["mcp:read", "mcp:write"]));
        assert_eq!(document["bearer_methods_supported"], json!(["header"]));
    }
}

/// A caller may do what its scopes say, and is told which it lacks; a message that hides its tool gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn scopes_decide_per_tool() {
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let rules = rules(&["mcp:read"], &["set_memory=mcp:write", "simulate_work=admin"]);
    let (server, _folder) = start(issuer.settings(rules)).await;
    let token = |scopes: &str, roles: &[&str]| {
        let mut claims = issuer.claims();
        (claims["scope"], claims["roles"]) = (json!(scopes), json!(roles));
        server.client.with_token(&signer.token(&claims))
    };
    let memory = json!({"key": "k", "value": 1});
    for (name, client, tool, arguments, lacks) in [
        ("no rule", token("mcp:read", &[]), "list_memory", json!({}), None),
        (
            "rule met",
            token("mcp:read mcp:write", &[]),
            "set_memory",
            memory.clone(),
            None,
        ),
        (
            "rule met by a role",
            token("mcp:read", &["admin"]),
            "simulate_work",
            json!({}),
            None,
        ),
        (
            "rule not met",
            token("mcp:read", &[]),
            "set_memory",
            memory.clone(),
            Some("mcp:read mcp:write"),
        ),
        (
            "not even in",
            token("", &["admin"]),
            "simulate_work",
            json!({}),
            Some("mcp:read"),
        ),
    ] {
        let response = client.tool(tool, &arguments).send().await.unwrap();
        match lacks {
            None => assert_eq!(response.status(), 200, "{name}"),
            Some(scopes) => {
                let challenge = challenge(&response);
                assert_eq!(response.status(), 403, "{name}");
                assert!(
                    challenge.contains(r#"error="insufficient_scope""#),
                    "{name}: {challenge}"
                );
                assert!(
                    challenge.contains(&format!("scope=\"{scopes}\"")),
                    "{name}: {challenge}"
                );
            }
        }
    }
    let reader = token("mcp:read", &[]);
    let refused: Value = reader
        .tool("set_memory", &memory)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&refused["id"], &refused["error"]["data"]["reason"]),
        (&json!(1), &json!("insufficient_scope"))
    );
    for (name, code, body) in [
        ("not JSON", -32700, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call""#),
        (
            "two tools",
            -32600,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_memory","name":"set_memory","arguments":{"key":"k","value":2}}}"#,
        ),
        (
            "two methods",
            -32600,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"set_memory","arguments":{"key":"k","value":2}}}"#,
        ),
        (
            "a batch",
            -32600,
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"set_memory","arguments":{"key":"k","value":2}}}]"#,
        ),
    ] {
        let response = reader.post().body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"], code, "{name}: {answer}");
    }
    let writer = token("mcp:read mcp:write", &[]);
    assert_eq!(
        writer.call("get_memory", json!({"key": "k"})).await["value"],
        1,
        "nothing was written by a reader"
    );
}

/// A provider changes its keys without asking: new tokens pass within seconds, those by a key that was taken away do
/// not. And ten thousand bad tokens neither fill the memory nor reach the provider.
#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_bad_tokens_do_not_reach_the_provider() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::start(&[&old]).await;
    let (server, _folder) = start(issuer.settings(ScopeRules::default())).await;
    let (old_token, new_token) = (old.token(&issuer.claims()), new.token(&issuer.claims()));
    assert_eq!(status(&server, &old_token).await, 200);
    assert_eq!(status(&server, &new_token).await, 401);

    let started = Instant::now();
    for round in 0..100 {
        let requests = (0..100).map(|number| {
            let stranger = format!("{round}-{number}");
            let header = base64url(json!({"alg": "ES256", "kid": stranger}).to_string().as_bytes());
            let token = format!("{header}.{}.{}", base64url(stranger.as_bytes()), base64url(&[7; 64]));
            let client = server.client.clone();
            async move {
                client
                    .post()
                    .bearer_auth(token)
                    .body("{}")
                    .send()
                    .await
                    .unwrap()
                    .status()
            }
        });
        for status in futures::future::join_all(requests).await {
            assert_eq!(status, 401);
        }
    }
    let allowed = 2 + u32::try_from(started.elapsed().as_secs() / 10).unwrap();
    assert!(
        issuer.fetches() <= allowed,
        "{} fetches in {:?}",
        issuer.fetches(),
        started.elapsed()
    );

    issuer.publish(&[&new]);
    until("the new key is found", async || {
        (status(&server, &new_token).await == 200).then_some(())
    })
    .await;
    assert_eq!(
        status(&server, &old_token).await,
        401,
        "a key that was taken away, though its token was known to be good"
    );
}

/// Lets time pass for whoever asks tokio for it. Nothing may be under way: its time limit would pass too.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Tokens by a key that is gone keep coming for as long as somebody's clock or cache is wrong: the provider must not
/// be asked about the same key at the end of each pause.
#[tokio::test]
async fn an_unknown_key_is_asked_for_once_in_a_while() {
    let issuer = Issuer::start(&[&Signer::new("known")]).await;
    let metrics = AuthMetrics::new(&mut Registry::default());
    let keys = Arc::new(Keys::new(issuer.asker(), metrics));
    for (name, wait, id, fetches) in [
        ("a known key", Duration::ZERO, "known", 1),
        ("an unknown key", PAUSE, "gone", 2),
        ("the same after the pause", PAUSE, "gone", 2),
        ("another, whose pause is over", Duration::ZERO, "other", 3),
        ("the first, when its time is over", UNKNOWN, "gone", 4),
    ] {
        pass(wait).await;
        let refused = keys.with(Some(id)).await.err();
        assert_eq!(refused, (id != "known").then_some(NoKey::Unknown), "{name}");
        assert_eq!(issuer.fetches(), fetches, "{name}");
    }
}

/// A token in use is remembered, and must be forgotten when it expires: who is let in for an hour is not let in for
/// longer because it asked before.
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_token_expires_too() {
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let mut auth = issuer.settings(ScopeRules::default());
    if let Method::Jwt { rules, .. } = &mut auth.method {
        rules.leeway = Duration::ZERO;
    }
    let (server, _folder) = start(auth).await;
    let expires = in_seconds(2);
    let token = signer.token(&with(&issuer.claims(), &json!({"exp": expires})));
    assert_eq!(status(&server, &token).await, 200, "it is valid at first");
    let refused = until("the token has expired", async || {
        let response = call(&server, &token).await;
        (response.status() != 200).then_some(response)
    })
    .await;
    assert!(in_seconds(0) >= expires, "it was valid until then");
    assert_eq!(refused.status(), 401);
    let challenge = challenge(&refused);
    assert!(challenge.contains("expired"), "{challenge}");
}

/// The keys of another tenant of the same provider would let its callers in here, and a document without end would
/// take the server's memory.
#[tokio::test]
async fn documents_of_others_and_implausible_ones_are_refused() {
    const MIB: usize = 1024 * 1024;
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let (asker, fine) = (issuer.asker(), issuer.description());
    let keys = |count: usize| json!({"keys": vec![signer.public(); count]});
    let padded = |document: &Value, bytes: usize| {
        let padding = |bytes: usize| with(document, &json!({"padding": "x".repeat(bytes)}));
        padding(bytes - padding(0).to_string().len())
    };
    let described = |changes: Value| with(&fine, &changes);
    for (name, description, published, why) in [
        ("as they should be", fine.clone(), keys(1), None),
        (
            "another issuer",
            described(json!({"issuer": "https://other.example"})),
            keys(1),
            Some("equal to the letter"),
        ),
        (
            "issuer with a slash more",
            described(json!({"issuer": format!("{}/", issuer.url)})),
            keys(1),
            Some("equal to the letter"),
        ),
        (
            "no issuer",
            described(json!({"issuer": null})),
            keys(1),
            Some("missing field"),
        ),
        (
            "keys that come without TLS",
            described(json!({"jwks_uri": "http://keys.example/keys"})),
            keys(1),
            Some("https://"),
        ),
        ("long", padded(&fine, MIB), padded(&keys(1), MIB), None),
        (
            "too long description",
            padded(&fine, MIB + 1),
            keys(1),
            Some("larger than 1 MiB"),
        ),
        (
            "too long keys",
            fine.clone(),
            padded(&keys(1), MIB + 1),
            Some("larger than 1 MiB"),
        ),
        ("many keys", fine.clone(), keys(100), None),
        ("too many keys", fine.clone(), keys(101), Some("101 keys")),
        ("no keys", fine.clone(), keys(0), Some("no key")),
    ] {
        issuer.describe(description);
        issuer.publish_document(published);
        let refused = asker.keys().await.err().map(|error| error.to_string());
        match (&refused, why) {
            (Some(refused), Some(why)) => assert!(refused.contains(why), "{name}: {refused}"),
            _ => assert_eq!(refused.as_deref(), why, "{name}"),
        }
    }
}

/// A provider that speaks for another lets nobody in, whoever has signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_calls_itself_otherwise_lets_nobody_in() {
    let signer = Signer::new("a");
    let issuer = Issuer::start(&[&signer]).await;
    let fine = issuer.description();
    issuer.describe(with(&fine, &json!({"issuer": "https://other.example"})));
    let (mut settings, _folder) = file_settings();
    settings.auth = issuer.settings(ScopeRules::default());
    let server = TestServer::start_unready(settings).await;
    let token = signer.token(&issuer.claims());
    assert_eq!(status(&server, &token).await, 503, "there are no keys");
    assert_eq!(readiness(&server).await.0, 503);
    assert_eq!(issuer.fetches(), 0, "where it says that the keys are, nobody looks");
    issuer.describe(fine);
    until("the keys are fetched", async || {
        (status(&server, &token).await == 200).then_some(())
    })
    .await;
}

/// What `/readyz` says.
async fn readiness(server: &TestServer) -> (u16, String) {
    let answer = reqwest::get(format!("http://{}/readyz", server.server.metrics))
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A provider that is away is not the callers' fault, and no reason to lock out those whose key is known.
#[tokio::test(flavor = "multi_thread")]
async fn the_provider_may_be_away() {
    let signer = Signer::new("a");
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let url = format!("http://{address}");
    drop(port);
    let (mut settings, _folder) = file_settings();
    settings.auth = settings_for(&url, ScopeRules::default());
    let server = TestServer::start_unready(settings).await;
    until("only the keys are missing", async || {
        let (status, reason) = readiness(&server).await;
        assert_eq!(status, 503, "{reason}");
        reason.contains("identity provider").then_some(())
    })
    .await;
    let token = signer.token(&claims_by(&url));
    let response = call(&server, &token).await;
    assert_eq!(
        response.status(),
        503,
        "away from the start: nobody can say whether the token is good"
    );
    assert!(response.headers().contains_key("retry-after") && challenge(&response).is_empty());

    let issuer = Issuer::start_at(TcpListener::bind(address).await.unwrap(), &[&signer]);
    until("the keys are fetched", async || {
        (status(&server, &token).await == 200).then_some(())
    })
    .await;
    keys_are_there(&server).await;
    assert_eq!(readiness(&server).await.0, 200);
    for health in [Health::Failing, Health::Silent] {
        issuer.be(health);
        let mut fresh = issuer.claims();
        fresh["jti"] = json!(format!("{}", health == Health::Silent));
        let started = Instant::now();
        assert_eq!(
            status(&server, &signer.token(&fresh)).await,
            200,
            "a new token by a known key"
        );
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(
            readiness(&server).await.0,
            200,
            "an outage takes no replica out of service"
        );
    }
}
