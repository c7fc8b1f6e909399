//! An identity provider in the test's own process: discovery, keys, and tokens signed with them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mcp_server::auth::issuer::{self, Source};
use mcp_server::auth::jwt::Rules;
use mcp_server::auth::{Method, ScopeRules, Settings};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Name of the server under test in the tokens.
pub const AUDIENCE: &str = "https://context.example/mcp";

/// A running identity provider.
pub struct Issuer {
    /// Its name, which is its address.
    pub url: String,
    state: Arc<Provider>,
}

struct Provider {
    description: Mutex<Value>,
    keys: Mutex<Value>,
    fetches: AtomicU32,
    health: Mutex<Health>,
}

/// How the provider answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Health {
    /// As it should.
    Well,
    /// With an error.
    Failing,
    /// Not at all, while connections stay open.
    Silent,
}

impl Issuer {
    /// Starts a provider that publishes the keys of `signers`.
    pub async fn start(signers: &[&Signer]) -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").await.unwrap(), signers)
    }

    /// Starts a provider on an open port.
    pub fn start_at(listener: TcpListener, signers: &[&Signer]) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Provider {
            description: Mutex::new(json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
            keys: Mutex::default(),
            fetches: AtomicU32::new(0),
            health: Mutex::new(Health::Well),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(Arc::clone(&state));
        tokio::spawn(axum::serve(listener, router).into_future());
        let issuer = Self { url, state };
        issuer.publish(signers);
        issuer
    }

    /// Publishes the keys of `signers` instead of those before.
    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Jwk> = signers.iter().map(|signer| signer.public()).collect();
        self.publish_document(json!({"keys": keys}));
    }

    /// Publishes a document as it stands instead of the keys before.
    pub fn publish_document(&self, document: Value) {
        *self.state.keys.lock().unwrap() = document;
    }

    /// The discovery document.
    pub fn description(&self) -> Value {
        self.state.description.lock().unwrap().clone()
    }

    /// Publishes another discovery document.
    pub fn describe(&self, document: Value) {
        *self.state.description.lock().unwrap() = document;
    }

    /// Changes how the provider answers.
    pub fn be(&self, health: Health) {
        *self.state.health.lock().unwrap() = health;
    }

    /// How often the keys were asked for.
    pub fn fetches(&self) -> u32 {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// The part of a server that asks this provider.
    pub fn asker(&self) -> issuer::Issuer {
        issuer::Issuer::new(source(&self.url)).unwrap()
    }

    /// Settings of a server that takes tokens of this provider.
    pub fn settings(&self, rules: ScopeRules) -> Settings {
        settings_for(&self.url, rules)
    }

    /// Claims that pass.
    pub fn claims(&self) -> Value {
        claims_by(&self.url)
    }
}

fn source(url: &str) -> Source {
    Source {
        issuer: url.to_owned(),
        jwks_url: None,
        extra_roots: Vec::new(),
        allow_http: false,
    }
}

/// Settings of a server that takes tokens of the provider at `url`.
pub fn settings_for(url: &str, rules: ScopeRules) -> Settings {
    Settings {
        method: Method::Jwt {
            source: source(url),
            rules: Rules {
                issuer: url.to_owned(),
                audience: vec![AUDIENCE.to_owned()],
                leeway: Duration::from_secs(30),
                scope_claims: vec!["scope".to_owned(), "roles".to_owned()],
            },
        },
        public_url: None,
        rules,
    }
}

/// Claims that pass at a server that trusts the provider at `url`.
pub fn claims_by(url: &str) -> Value {
    json!({"iss": url, "aud": AUDIENCE, "sub": "agent-7", "exp": in_seconds(600), "scope": "mcp:read"})
}

/// A moment from now, as tokens write it.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

async fn discovery(State(provider): State<Arc<Provider>>) -> Response {
    let document = provider.description.lock().unwrap().clone();
    answer(&provider, document).await
}

async fn keys(State(provider): State<Arc<Provider>>) -> Response {
    provider.fetches.fetch_add(1, Ordering::SeqCst);
    let document = provider.keys.lock().unwrap().clone();
    answer(&provider, document).await
}

async fn answer(provider: &Provider, document: Value) -> Response {
    let health = *provider.health.lock().unwrap();
    match health {
        Health::Well => Json(document).into_response(),
        Health::Failing => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Health::Silent => std::future::pending().await,
    }
}

/// A key pair that signs tokens.
pub struct Signer {
    /// Name of the key.
    pub id: String,
    /// Its algorithm.
    pub algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// A new ES256 key.
    pub fn new(id: &str) -> Self {
        Self::of(id, Algorithm::ES256)
    }

    /// A new key of a kind.
    pub fn of(id: &str, algorithm: Algorithm) -> Self {
        let pkcs8 = |kind| rcgen::KeyPair::generate_for(kind).unwrap().serialize_der();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&pkcs8(&rcgen::PKCS_ECDSA_P256_SHA256)),
            Algorithm::ES384 => EncodingKey::from_ec_der(&pkcs8(&rcgen::PKCS_ECDSA_P384_SHA384)),
            Algorithm::EdDSA => EncodingKey::from_ed_der(&edwards()),
            _ => EncodingKey::from_rsa_der(&rsa()),
        };
        Self {
            id: id.to_owned(),
            algorithm,
            key,
        }
    }

    /// The public half, as a provider publishes it.
    pub fn public(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        jwk
    }

    /// The header of a token by this key.
    pub fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        header
    }

    /// A token.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with a header of the test's choice.
    pub fn token_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

/// A new Ed25519 key in the first version of PKCS #8, which alone `Jwk::from_encoding_key` reads.
fn edwards() -> Vec<u8> {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    pair.to_pkcs8v1().unwrap().as_ref().to_vec()
}

/// Bytes of PKCS #8 before the structure of PKCS #1, for an RSA key of 2048 bits.
const HEAD: usize = 26;

/// A new RSA key in the form of PKCS #1.
fn rsa() -> Vec<u8> {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der = pair.as_der().unwrap();
    pkcs8.as_ref()[HEAD..].to_vec()
}

/// A part of a token.
pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1)));
    let bits: Vec<usize> = bits.collect();
    let digits = bits.chunks(6).map(|chunk| {
        let index = chunk
            .iter()
            .chain(&[0; 5])
            .take(6)
            .fold(0, |index, bit| index * 2 + bit);
        char::from(DIGITS[index])
    });
    digits.collect()
}
