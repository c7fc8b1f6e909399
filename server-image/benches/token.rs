//! What it costs to know who calls: a token that was verified before, one that was not, and an API key; beside what
//! jsonwebtoken takes to verify the token each time.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use mcp_server::auth::api_keys::{ApiKeys, generate};
use mcp_server::auth::issuer::{Issuer, Source};
use mcp_server::auth::jwt::{Rules, Tokens};
use mcp_server::auth::keys::Keys;
use mcp_server::auth::metrics::AuthMetrics;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const ISSUER: &str = "http://127.0.0.1";

fn jwk(key: &EncodingKey) -> Jwk {
    let mut jwk = Jwk::from_encoding_key(key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("key".to_owned());
    jwk
}

fn tokens(runtime: &Runtime, key: &EncodingKey) -> Tokens {
    let jwk = jwk(key);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let jwks_url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = Router::new().route("/keys", get(move || async move { Json(json!({"keys": [jwk]})) }));
    runtime.spawn(axum::serve(listener, router).into_future());
    let source = Source {
        issuer: ISSUER.to_owned(),
        jwks_url: Some(jwks_url),
        extra_roots: Vec::new(),
        allow_http: false,
    };
    let metrics = AuthMetrics::new(&mut Registry::default());
    let rules = Rules {
        issuer: ISSUER.to_owned(),
        audience: vec!["me".to_owned()],
        leeway: Duration::from_secs(30),
        scope_claims: vec!["scope".to_owned()],
    };
    Tokens::new(Arc::new(Keys::new(Issuer::new(source).unwrap(), metrics)), rules)
}

fn token(key: &EncodingKey, number: usize) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("key".to_owned());
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    // As long as the tokens of identity providers are.
    let groups: Vec<String> = (0..20).map(|group| format!("group-{group:032}")).collect();
    let claims = json!({"iss": ISSUER, "aud": "me", "sub": "agent", "exp": expires, "scope": "mcp:read mcp:write",
        "jti": number, "groups": groups});
    encode(&header, &claims, key).unwrap()
}

fn token_check(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let tokens = tokens(&runtime, &key);
    let known = token(&key, 0);
    runtime.block_on(tokens.verify(&known)).unwrap();
    let public = DecodingKey::from_jwk(&jwk(&key)).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["me"]);
    validation.set_issuer(&[ISSUER]);
    criterion.bench_function("token/jsonwebtoken", |bencher| {
        bencher.iter(|| decode::<Value>(black_box(&known), &public, &validation).unwrap());
    });
    criterion.bench_function("token/verified before", |bencher| {
        bencher.iter(|| futures::executor::block_on(tokens.verify(black_box(&known))).unwrap());
    });
    let mut number = 0;
    criterion.bench_function("token/new (ES256)", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                token(&key, number)
            },
            |token| futures::executor::block_on(tokens.verify(black_box(&token))).unwrap(),
            criterion::BatchSize::SmallInput,
        );
    });

    let folder = tempfile::tempdir().unwrap();
    let made: Vec<_> = (0..10)
        .map(|number| generate(&format!("key-{number}"), &[]).unwrap())
        .collect();
    let lines: Vec<&str> = made.iter().map(|key| key.line.as_str()).collect();
    std::fs::write(folder.path().join("keys"), lines.join("\n")).unwrap();
    let keys = ApiKeys::open(&folder.path().join("keys")).unwrap();
    criterion.bench_function("API key/one of 10", |bencher| {
        bencher.iter(|| keys.verify(black_box(made[7].key.as_bytes())).unwrap());
    });
}

criterion_group!(benches, token_check);
criterion_main!(benches);
