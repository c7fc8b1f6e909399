//! Inputs: valid messages with something wrong in them, in the body or in the headers, and bytes at random.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Map, Value, json};

/// Numbers that are the same for the same seed (`SplitMix64`).
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// The revision whose requests say all about their client.
const MODERN: &str = "2026-07-28";
/// What an input names that is to come further than the version check; the second comes further in a session.
const CURRENT: &[&str] = &["2026-07-28", "2026-07-28", "2025-11-25"];

/// What requests name that are half of one era and half of the other: they say all about their client as those of
/// [`MODERN`] do, and name a revision that has sessions.
const BETWEEN: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26"];
/// One in so many inputs is followed by another with the same id.
const TWINS: usize = 50;

/// What is wrong with an input: only one part, so that the others let it come further than the first check.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Arguments,
    Head,
    Body,
}

/// One request.
pub struct Input {
    method: Method,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    wrong: Wrong,
    leaves: bool,
}

const ENDPOINT: &str = "/mcp";
/// Where the REST shim has its tools.
const SHIM: &str = "/mcp/tool/";
const API_KEY: &str = "x-api-key";
const SESSION_ID: &str = "mcp-session-id";

const METHODS: &[&str] = &[
    "tools/call",
    "tools/call",
    "tools/call",
    "tools/list",
    "server/discover",
    "initialize",
    "ping",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "resources/subscribe",
    "resources/unsubscribe",
    "notifications/initialized",
    "notifications/cancelled",
    "tasks/get",
    "",
    "tools/call\u{0}",
    "TOOLS/CALL",
    "../tools/call",
    "rpc.discover",
];
const TOOLS: &[&str] = &[
    "create_session",
    "get_session",
    "add_message",
    "get_messages",
    "search_context",
    "search_by_sender",
    "search_by_timerange",
    "set_memory",
    "get_memory",
    "list_memory",
    "authenticate_agent",
    "refresh_token",
    "get_usage_guidance",
    "get_performance_metrics",
    "no_such_tool",
    "",
    "set_memory ",
];
const KEYS: &[&str] = &[
    "session_id",
    "purpose",
    "content",
    "key",
    "value",
    "limit",
    "offset",
    "query",
    "visibility",
    "metadata",
    "sender",
    "start_time",
    "end_time",
    "fuzzy_threshold",
    "prefix",
    "expires_in",
    "agent_id",
    "auth_token",
    "parent_message_id",
    "overwrite",
    "uri",
    "name",
    "arguments",
    "_meta",
    "id",
    "method",
    "params",
    "jsonrpc",
    "result",
    "error",
    "__proto__",
    "",
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "session_0123456789abcdef",
    "session://session_0123456789abcdef",
    "agent://a/memory",
    "\u{0}",
    "\u{feff}",
    "'; DROP TABLE messages; --",
    "%",
    "_",
    "\\",
    "../../etc/passwd",
    "{{7*7}}",
    "\u{202e}abc",
    "e\u{301}",
    "🦀🦀🦀",
    "2026-11-21T00:00:00Z",
    "9999-99-99",
    "NaN",
    "null",
    "public",
    "private",
    "admin_only",
    "sct_00000000-0000-0000-0000-000000000000",
];
const VERSIONS: &[&str] = &[
    "2026-07-28",
    "2026-07-28",
    "2025-11-25",
    "2025-06-18",
    "2024-11-05",
    "2099-01-01",
    "",
    "latest",
];

impl Input {
    /// The next `count` inputs; most of those up to 2025-11-25 are of one of `sessions`.
    pub fn batch(random: &mut Random, sessions: &[String], count: usize) -> Vec<Self> {
        let mut inputs = Vec::new();
        while inputs.len() < count {
            if random.one_in(TWINS) {
                // One after the other, so that both are on their way at once.
                inputs.extend(Self::twins(random, sessions));
            } else {
                inputs.push(Self::new(random, sessions));
            }
        }
        inputs.truncate(count);
        inputs
    }

    /// Two calls with the same id in the same session, and the first one takes a while. No client may do that, and any
    /// can: the session tells its answers apart by id.
    fn twins(random: &mut Random, sessions: &[String]) -> [Self; 2] {
        let (session, id) = (random.below(sessions.len()), random.below(1000));
        let second = random.of(&["simulate_work", "get_usage_guidance", "no_such_tool"]);
        ["simulate_work", second].map(|tool| {
            let arguments = if tool == "simulate_work" {
                json!({"io_ms": 20})
            } else {
                json!({})
            };
            let params = json!({"name": tool, "arguments": arguments});
            let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
            let mut headers = headers(random, Wrong::Arguments, "tools/call", tool, "2025-11-25");
            headers.push((SESSION_ID, sessions[session].clone().into_bytes()));
            Self {
                method: Method::POST,
                path: ENDPOINT.to_owned(),
                headers,
                body: message.to_string().into_bytes(),
                wrong: Wrong::Arguments,
                leaves: false,
            }
        })
    }

    fn new(random: &mut Random, sessions: &[String]) -> Self {
        let wrong = [Wrong::Arguments, Wrong::Head, Wrong::Body][random.below(3)];
        let methods = if random.one_in(2) { &["tools/call"] } else { METHODS };
        let is_between = random.one_in(12);
        let versions = match wrong {
            _ if is_between => BETWEEN,
            Wrong::Head => VERSIONS,
            Wrong::Arguments | Wrong::Body => CURRENT,
        };
        let (method, version) = (random.of(methods).to_owned(), random.of(versions).to_owned());
        // Most name the same revision twice; who names two may be taken for either.
        let named = if is_between && random.one_in(4) {
            random.of(VERSIONS).to_owned()
        } else {
            version.clone()
        };
        let meta = (is_between || version == MODERN).then_some(named.as_str());
        let tool = random.of(TOOLS).to_owned();
        let is_rest = random.one_in(8);
        let message = if is_rest {
            rest_body(random, wrong)
        } else {
            message(random, wrong, &method, &tool, &version, meta)
        };
        let name = message["params"]["uri"].as_str().unwrap_or(&tool).to_owned();
        let body = if wrong == Wrong::Body {
            spoil(random, &message)
        } else {
            message.to_string().into_bytes()
        };
        let mut input = Self {
            method: Method::POST,
            path: if is_rest {
                format!("{SHIM}{}", tool.replace(' ', "%20"))
            } else {
                ENDPOINT.to_owned()
            },
            headers: headers(random, wrong, &method, &name, &version),
            body,
            wrong,
            leaves: random.one_in(4),
        };
        let without_session = if is_between { 2 } else { 8 };
        if version != MODERN && !random.one_in(without_session) {
            let session = sessions[random.below(sessions.len())].clone();
            input.headers.push((SESSION_ID, session.into_bytes()));
        }
        if wrong == Wrong::Head && random.one_in(4) {
            let methods = [
                Method::GET,
                Method::DELETE,
                Method::PUT,
                Method::OPTIONS,
                Method::HEAD,
                Method::PATCH,
                Method::TRACE,
            ];
            input.method = methods[random.below(methods.len())].clone();
        }
        if wrong == Wrong::Head && random.one_in(10) {
            random
                .of(&[
                    "/",
                    "/mcp/",
                    "/mcp?x=1",
                    "/mcp/tool/a/b",
                    "/mcp/tool/%ff",
                    "/mcp/tool/..%2f",
                    "/MCP",
                    "/mcp%00",
                ])
                .clone_into(&mut input.path);
        }
        input
    }

    /// Whether its headers say beyond doubt that it is JSON.
    pub fn is_typed(&self) -> bool {
        self.wrong != Wrong::Head
    }

    /// Whether nothing but its body is wrong, and that is no JSON. The shim takes no body for no arguments.
    pub fn is_malformed(&self) -> bool {
        let is_json = || {
            let text = std::str::from_utf8(&self.body).ok();
            text.is_some_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
        };
        self.wrong == Wrong::Body && !is_json() && !(self.is_rest() && self.body.is_empty())
    }

    /// Whether it calls a tool by the REST shim.
    pub fn is_rest(&self) -> bool {
        self.path.starts_with(SHIM)
    }

    /// Whether it asks for the headers of an answer only.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether its client goes away before the end of an event stream.
    pub fn leaves(&self) -> bool {
        self.leaves
    }

    /// Gives it the key of a caller, unless it has another.
    pub fn authorize(&mut self, key: &str) {
        if !self.headers.iter().any(|(name, _)| *name == API_KEY) {
            self.headers.push((API_KEY, key.as_bytes().to_vec()));
        }
    }

    /// The input as a person can read it.
    pub fn shown(&self) -> String {
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
            .collect();
        let body: String = String::from_utf8_lossy(&self.body).chars().take(2000).collect();
        format!(
            "{} {} {headers:?} {body:?} ({} bytes)",
            self.method,
            self.path,
            self.body.len()
        )
    }
}

impl From<Input> for Request<Body> {
    fn from(input: Input) -> Self {
        let mut request = Self::new(Body::from(input.body));
        *request.method_mut() = input.method;
        *request.uri_mut() = input.path.parse().unwrap();
        for (name, value) in input.headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        request
    }
}

/// A message of the revision `version`; with what requests since [`MODERN`] say about their client, if that names one
/// in `meta`.
fn message(random: &mut Random, wrong: Wrong, method: &str, tool: &str, version: &str, meta: Option<&str>) -> Value {
    let mut params = Map::new();
    if method == "initialize" {
        params = object(
            json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "f", "version": "1"}}),
        );
    }
    if matches!(method, "tools/call" | "prompts/get") || random.one_in(10) {
        params.insert("name".to_owned(), json!(tool));
    }
    if method.starts_with("resources/") {
        params.insert("uri".to_owned(), json!(random.of(TEXTS)));
    }
    if method == "notifications/cancelled" {
        params.insert("requestId".to_owned(), json!(random.below(1000)));
    }
    if method == "logging/setLevel" {
        params.insert("level".to_owned(), json!(random.of(&["debug", "info", "error", "all"])));
    }
    if method == "subscriptions/listen" {
        params.insert("notifications".to_owned(), json!({}));
    }
    if method == "tools/call" || random.one_in(10) {
        params.insert("arguments".to_owned(), Value::Object(arguments(random)));
    }
    if let Some(named) = meta {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": named,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "f", "version": "1"},
        });
        params.insert("_meta".to_owned(), meta);
    }
    let mut message = object(json!({"jsonrpc": "2.0", "method": method, "params": params}));
    if !method.starts_with("notifications/") {
        let id = if wrong == Wrong::Body && random.one_in(4) {
            value(random, 2)
        } else {
            json!(random.below(1000))
        };
        message.insert("id".to_owned(), id);
    }
    if random.one_in(20) {
        // The answer of a client to what a server asked, or its end.
        drop(message.remove("method"));
        drop(message.remove("params"));
        let (member, content) = if random.one_in(2) {
            ("result", json!({}))
        } else {
            ("error", json!({"code": -1, "message": "no"}))
        };
        message.insert(member.to_owned(), content);
    }
    let mut message = Value::Object(message);
    if wrong != Wrong::Body {
        return message;
    }
    change_some(random, &mut message);
    if random.one_in(25) {
        json!([message, message])
    } else {
        message
    }
}

/// What the shim takes: a tool's arguments.
fn rest_body(random: &mut Random, wrong: Wrong) -> Value {
    let mut body = Value::Object(arguments(random));
    if wrong == Wrong::Body {
        change_some(random, &mut body);
    }
    body
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else {
        panic!("not an object")
    };
    map
}

fn arguments(random: &mut Random) -> Map<String, Value> {
    let usual = json!({
        "session_id": "session_0123456789abcdef", "content": "c", "key": "k", "value": {"a": 1}, "query": "q",
        "purpose": "p", "sender": "s", "start_time": "2026-01-01T00:00:00Z", "end_time": "2027-01-01T00:00:00Z",
    });
    let mut arguments = object(usual);
    arguments.retain(|_, _| random.one_in(2));
    for _ in 0..random.below(4) {
        arguments.insert(random.of(KEYS).to_owned(), value(random, 3));
    }
    arguments
}

/// Any JSON value, up to `depth` deep, the odd ones often.
fn value(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => json!(random.one_in(2)),
        2 => json!([0_i64, 1, -1, i64::MAX, i64::MIN, 1000, 1001][random.below(7)]),
        3 => json!([0.5, -0.0, 1e300, 1e-300, 59.999_999][random.below(5)]),
        4 => json!(random.next()),
        5 if random.one_in(2) => json!(noise(random)),
        5 => json!("x".repeat(1 << random.below(12))),
        6 => json!(random.of(TEXTS)),
        7 => (0..random.below(4)).map(|_| value(random, depth - 1)).collect(),
        _ => (0..random.below(4))
            .map(|_| (random.of(KEYS).to_owned(), value(random, depth - 1)))
            .collect(),
    }
}

/// A text of up to 8 KiB that nobody can store in less: databases differ in what is too long for an index.
fn noise(random: &mut Random) -> String {
    let length = 1 << random.below(12);
    (0..length)
        .filter_map(|_| char::from_u32(0x1_0000 + u32::try_from(random.below(0x1_0000)).unwrap()))
        .collect()
}

fn change_some(random: &mut Random, message: &mut Value) {
    for _ in 0..random.below(4) {
        change(random, message);
    }
}

/// Replaces, removes or adds something somewhere.
fn change(random: &mut Random, message: &mut Value) {
    match message {
        Value::Object(map) if !map.is_empty() && !random.one_in(4) => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            match random.below(6) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(random.of(KEYS).to_owned(), value(random, 2))),
                2 => drop(map.insert(key, value(random, 2))),
                _ => change(random, map.get_mut(&key).unwrap()),
            }
        }
        Value::Array(items) if !items.is_empty() && !random.one_in(4) => {
            let index = random.below(items.len());
            change(random, &mut items[index]);
        }
        other => *other = value(random, 2),
    }
}

/// The bytes of a message, sometimes no longer a message.
fn spoil(random: &mut Random, message: &Value) -> Vec<u8> {
    let mut bytes = message.to_string().into_bytes();
    let at = random.below(bytes.len());
    match random.below(24) {
        0 => bytes.truncate(at),
        1 => (0..=random.below(8)).for_each(|_| {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }),
        2 => bytes.insert(at, 0),
        3 => bytes = (0..random.below(300)).map(|_| u8::try_from(random.below(256)).unwrap()).collect(),
        4 => bytes = nested(random, b'[', b']'),
        5 => bytes = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"set_memory\",\"arguments\":{{\"key\":\"k\",\"value\":{}}}}}}}", String::from_utf8(nested(random, b'[', b']')).unwrap()).into_bytes(),
        6 => bytes.extend_from_within(..),
        7 => bytes = [b"\xef\xbb\xbf".as_slice(), &bytes].concat(),
        8 => bytes = String::from_utf8_lossy(&bytes).replacen("\"method\"", "\"method\":\"ping\",\"method\"", 1).into_bytes(),
        9 => bytes = String::from_utf8_lossy(&bytes).replacen(':', ":1e99999,\"a\":", 1).into_bytes(),
        10 => bytes = String::from_utf8_lossy(&bytes).replacen('a', "\\ud800", 1).into_bytes(),
        11 if random.one_in(20) => bytes = vec![b' '; 5 * 1024 * 1024],
        12 if random.one_in(20) => bytes = json!({"jsonrpc": "2.0", "id": "x".repeat(3_000_000), "method": "ping"}).to_string().into_bytes(),
        13 if random.one_in(4) => bytes.clear(),
        _ => {}
    }
    bytes
}

/// Brackets, from a few to more than any stack takes.
fn nested(random: &mut Random, open: u8, close: u8) -> Vec<u8> {
    let depth = [10, 126, 127, 128, 129, 5000, 100_000][random.below(7)];
    let mut bytes = vec![open; depth];
    if !random.one_in(3) {
        bytes.extend(std::iter::repeat_n(close, depth));
    }
    bytes
}

fn headers(
    random: &mut Random,
    wrong: Wrong,
    method: &str,
    called: &str,
    version: &str,
) -> Vec<(&'static str, Vec<u8>)> {
    let mut headers = vec![("host", b"127.0.0.1".to_vec())];
    let mut add = |random: &mut Random, name, usual: &str, odd: &[&str]| match random.below(14) {
        _ if wrong != Wrong::Head => headers.push((name, usual.as_bytes().to_vec())),
        0 => {}
        1 => headers.push((name, random.of(odd).as_bytes().to_vec())),
        2 if random.one_in(4) => headers.push((
            name,
            (0..20).map(|_| u8::try_from(random.below(256)).unwrap()).collect(),
        )),
        3 if random.one_in(2) => headers.extend([
            (name, usual.as_bytes().to_vec()),
            (name, random.of(odd).as_bytes().to_vec()),
        ]),
        _ => headers.push((name, usual.as_bytes().to_vec())),
    };
    add(
        random,
        "accept",
        "application/json, text/event-stream",
        &["*/*", "text/html", "", "application/json;q=0", ";;;"],
    );
    add(
        random,
        "content-type",
        "application/json",
        &[
            "text/plain",
            "application/json; charset=utf-16",
            "multipart/form-data",
            "",
        ],
    );
    add(random, "mcp-protocol-version", version, VERSIONS);
    add(random, "mcp-method", method, METHODS);
    add(
        random,
        "mcp-name",
        called,
        &[
            "",
            "=?base64?c2V0X21lbW9yeQ==?=",
            "=?base64?%%%?=",
            "=?base64?",
            "set_memory",
        ],
    );
    for (name, values) in [
        (
            SESSION_ID,
            &["", "x", "00000000-0000-0000-0000-000000000000", "../../x"][..],
        ),
        ("origin", &["http://localhost", "https://evil.example", "null", ""]),
        ("last-event-id", &["0", "x/1", "99999999999999999999", "nobody.1.0"]),
        ("authorization", &["Bearer x", "Bearer sct_x", "Basic dTpw", "Bearer"]),
        (API_KEY, &["x", ""]),
        ("x-forwarded-for", &["1.2.3.4", "a,b,c", ",,,"]),
        ("accept-encoding", &["gzip", "zstd", "br;q=2, *", "gzip;q=nan"]),
        (
            "traceparent",
            &["00-x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        ),
        ("mcp-param-x", &["1", "=?base64?AAAA?="]),
        ("content-length", &["0", "5", "99999999", "-1", "x"]),
        ("host", &["evil.example", "127.0.0.1:99999", ""]),
    ] {
        if wrong == Wrong::Head && random.one_in(6) {
            headers.push((name, random.of(values).as_bytes().to_vec()));
        }
    }
    headers
}
