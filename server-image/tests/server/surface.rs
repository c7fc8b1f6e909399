//! What the server offers: names, arguments, limits and defaults that agents know from the shared-context server.

use mcp_server::server::Fixtures;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::server::{TestServer, file_settings};

/// Each tool with its own arguments: name (`?` if it may be left out), type, least and most, default.
const TOOLS: &[(&str, &[&str])] = &[
    (
        "add_message",
        &[
            "session_id: string",
            "content: string 1..100000",
            "visibility?: public|private|agent_only|admin_only = public",
            "metadata?: object",
            "parent_message_id?: integer",
            AGENT,
        ],
    ),
    (
        "authenticate_agent",
        &[
            "agent_id: string 1..100",
            "agent_type: string 1..50",
            r#"requested_permissions?: [read|write|admin|debug] = ["read","write"]"#,
            "api_key?: string",
        ],
    ),
    (
        "create_session",
        &["purpose: string 1..1000", "metadata?: object", AGENT],
    ),
    ("get_memory", &["key: string", "session_id?: string", AGENT]),
    (
        "get_messages",
        &[
            "session_id: string",
            "limit?: integer 1..1000 = 50",
            "offset?: integer 0.. = 0",
            "visibility_filter?: public|private|agent_only|admin_only",
            AGENT,
        ],
    ),
    ("get_performance_metrics", &[AGENT]),
    ("get_session", &["session_id: string", AGENT]),
    (
        "get_usage_guidance",
        &[
            "guidance_type?: operations|coordination|security|troubleshooting = operations",
            AGENT,
        ],
    ),
    (
        "list_memory",
        &[
            "session_id?: string",
            "prefix?: string",
            "limit?: integer 1..200 = 50",
            AGENT,
        ],
    ),
    ("refresh_token", &["current_token: string ^sct_[a-f0-9-]{36}$"]),
    (
        "search_by_sender",
        &[
            "session_id: string",
            "sender: string 1..100",
            "limit?: integer 1..100 = 20",
            AGENT,
        ],
    ),
    (
        "search_by_timerange",
        &[
            "session_id: string",
            "start_time: string",
            "end_time: string",
            "limit?: integer 1..200 = 50",
            AGENT,
        ],
    ),
    (
        "search_context",
        &[
            "session_id: string",
            "query: string 1..500",
            "fuzzy_threshold?: number 0..100 = 60",
            "limit?: integer 1..100 = 10",
            "search_metadata?: boolean = true",
            "search_scope?: all|public|private = all",
            AGENT,
        ],
    ),
    (
        "set_memory",
        &[
            "key: string 1..255",
            "value: any",
            "session_id?: string",
            "expires_in?: integer 0..31536000",
            "metadata?: object",
            "overwrite?: boolean = true",
            AGENT,
        ],
    ),
];

/// Who calls, at a server where nobody proves it.
const AGENT: &str = "agent_id?: string";

/// What every tool takes.
const TOKEN: &str = "auth_token?: string";

const TEMPLATES: [&str; 6] = [
    "agent://{agent_id}/memory",
    "docs://tools/{_}",
    "performance://metrics",
    "server://info/{_}",
    "session://{session_id}",
    "session://{session_id}/messages/{limit}",
];

const PROMPTS: [(&str, &[&str]); 2] = [
    ("debug-session", &["session_id"]),
    (
        "setup-collaboration",
        &[
            "purpose",
            "expert_roles",
            "collaboration_type?",
            "session_id?",
            "iteration_rounds?",
            "project_name?",
        ],
    ),
];

async fn ask(client: &Client, method: &str, params: Value) -> Value {
    let response = client.modern(method, params).send().await.unwrap();
    response.json().await.unwrap()
}

/// The items of a list, by name.
async fn list(client: &Client, method: &str, items: &str) -> Vec<Value> {
    let answer = ask(client, method, json!({})).await;
    let list = answer["result"][items].as_array();
    list.unwrap_or_else(|| panic!("{method}: {answer}")).clone()
}

/// The arguments of a tool, each in a line as in [`TOOLS`].
fn arguments(tool: &Value) -> Vec<String> {
    let schema = &tool["inputSchema"];
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    let properties = schema["properties"].as_object().unwrap();
    let line = |(name, property): (&String, &Value)| {
        let mark = if required.iter().any(|required| *required == name) {
            ""
        } else {
            "?"
        };
        let (kind, bounds, default) = (kind(schema, property), bounds(property), default(property));
        format!("{name}{mark}: {kind}{bounds}{default}")
    };
    properties.iter().map(line).collect()
}

/// The type of a value, or the values there are.
fn kind(root: &Value, schema: &Value) -> String {
    if let Some(definition) = schema["$ref"].as_str() {
        let name = definition.strip_prefix("#/$defs/").unwrap();
        return kind(root, &root["$defs"][name]);
    }
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let choices = choices.iter().filter(|choice| choice["type"] != "null");
        return choices.map(|choice| kind(root, choice)).collect::<Vec<_>>().join("|");
    }
    if let Some(value) = schema["const"].as_str() {
        return value.to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return values.join("|");
    }
    if schema["items"].is_object() {
        return format!("[{}]", kind(root, &schema["items"]));
    }
    let types = schema["type"].as_array().into_iter().flatten();
    let mut types = types.chain([&schema["type"]]).filter_map(Value::as_str);
    types.find(|name| *name != "null").unwrap_or("any").to_owned()
}

fn bounds(schema: &Value) -> String {
    let bound = |names: [&str; 2]| names.iter().find_map(|name| schema[*name].as_f64());
    let text = |bound: Option<f64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
    let pattern = schema["pattern"].as_str().map(|pattern| format!(" {pattern}"));
    match (bound(["minimum", "minLength"]), bound(["maximum", "maxLength"])) {
        (None, None) => pattern.unwrap_or_default(),
        (least, most) => format!(" {}..{}", text(least), text(most)),
    }
}

fn default(schema: &Value) -> String {
    match &schema["default"] {
        Value::Null => String::new(),
        Value::String(text) => format!(" = {text}"),
        Value::Number(number) => format!(" = {}", number.as_f64().unwrap()),
        other => format!(" = {other}"),
    }
}

/// Agents call tools as they have learnt to, with the limits and defaults that they know: another one breaks them.
#[tokio::test(flavor = "multi_thread")]
async fn names_arguments_limits_and_defaults_are_the_known_ones() {
    let (mut settings, _folder) = file_settings();
    settings.operation.fixtures = Fixtures::None;
    let server = TestServer::start(settings).await;
    let client = &server.client;

    let tools = list(client, "tools/list", "tools").await;
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let expected: Vec<&str> = TOOLS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected);
    for (tool, (name, expected)) in tools.iter().zip(TOOLS) {
        let mut found = arguments(tool);
        let mut expected: Vec<&str> = expected.iter().copied().chain([TOKEN]).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
    }

    let templates = list(client, "resources/templates/list", "resourceTemplates").await;
    let templates: Vec<&Value> = templates.iter().map(|template| &template["uriTemplate"]).collect();
    assert_eq!(templates, TEMPLATES);

    let prompts = list(client, "prompts/list", "prompts").await;
    assert_eq!(prompts.len(), PROMPTS.len());
    for (prompt, (name, expected)) in prompts.iter().zip(PROMPTS) {
        assert_eq!(prompt["name"], name);
        let argument = |argument: &Value| {
            let mark = if argument["required"] == true { "" } else { "?" };
            format!("{}{mark}", argument["name"].as_str().unwrap())
        };
        let found: Vec<String> = prompt["arguments"].as_array().unwrap().iter().map(argument).collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// A plan with calls that do not work is worse than none: what it tells to begin with must be a call that succeeds, and
/// what nobody asked for must be the known default.
#[tokio::test(flavor = "multi_thread")]
async fn a_collaboration_begins_as_its_plan_says() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let client = &server.client;
    let arguments = json!({"purpose": "choose a \"cache\"", "expert_roles": "Data Engineer, Critic"});
    let prompt = json!({"name": "setup-collaboration", "arguments": arguments});
    let answer = ask(client, "prompts/get", prompt).await;
    let text = answer["result"]["messages"][0]["content"]["text"].as_str();
    let text = text.unwrap_or_else(|| panic!("{answer}"));
    for part in ["2 agents over 3 rounds", "agent_data_engineer_001", "agent_critic_002"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, call) = text.split_once("Call create_session with ").unwrap();
    let (call, _) = call.split_once(" and give its session_id to every agent").unwrap();
    let created = client.call("create_session", serde_json::from_str(call).unwrap()).await;
    let session_id = &created["session_id"];
    let found = client.call("get_session", json!({"session_id": session_id})).await;
    let metadata = json!({
        "collaboration_type": "committee", "expert_roles": ["Data Engineer", "Critic"], "iteration_rounds": 3,
    });
    assert_eq!(
        (&found["session"]["purpose"], &found["session"]["metadata"]),
        (&json!("choose a \"cache\""), &metadata)
    );
    let incomplete = json!({"name": "setup-collaboration", "arguments": {"purpose": "p"}});
    let refused = ask(client, "prompts/get", incomplete).await;
    assert!(
        refused["error"]["message"].to_string().contains("expert_roles"),
        "{refused}"
    );
}
