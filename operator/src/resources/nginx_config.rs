//! The text of `nginx.conf`. Needs nginx 1.30: `server … resolve` and, for local sessions, `sticky learn`.
//!
//! Users have typed fields only, never snippets: text that users can inject is what ended ingress-nginx.

use mcpscale_crds::v1alpha1::{ProtocolMode, Sessions};

use super::{Component, component_name, server};
use crate::controller::validate::ValidatedServer;

/// Port for clients.
pub const PORT: u16 = 8080;
/// Port for probes and `/stub_status`, apart from client traffic.
pub const STATUS_PORT: u16 = 8081;
/// Writable folder of the pod: everything else is read-only.
pub const RUN: &str = "/run/nginx";
/// Seconds that an answer of DNS is used. Together with the cache of the cluster's DNS it bounds how long a pod that is
/// going away still gets requests; the server's `preStop` waits longer than that.
pub const RESOLVE_SECONDS: u32 = 2;
/// Seconds that a worker which is asked to stop waits for its open streams.
pub const SHUTDOWN_SECONDS: u32 = 60;

/// `nginx.conf` for a server.
///
/// - Clients of 2026-07-28 hold no session: least connections. Older ones get a pool of their own, which leads them
///   back to their pod only where sessions are `Local`; where they are shared, staying free lets new pods take load at
///   once.
/// - A POST is never replayed once a byte of it was sent: `non_idempotent` is absent on purpose. A refused connection
///   is retried, since nothing was sent.
/// - `resolve` follows the pods without a reload. The resolver's address is written by the init container.
/// - No limits: they are off by default.
#[must_use]
pub fn render(server: &ValidatedServer) -> String {
    [
        settings(),
        upstreams(server),
        client_server(server),
        status_server(server),
        "}\n".to_owned(),
    ]
    .concat()
}

/// Everything that is the same for every server.
fn settings() -> String {
    format!(
        r#"worker_processes 2;
worker_shutdown_timeout {SHUTDOWN_SECONDS}s;
error_log /dev/stderr warn;
pid {RUN}/nginx.pid;
daemon off;

events {{
    worker_connections 4096;
}}

http {{
    client_body_temp_path {RUN}/client_body;
    proxy_temp_path {RUN}/proxy;
    fastcgi_temp_path {RUN}/fastcgi;
    uwsgi_temp_path {RUN}/uwsgi;
    scgi_temp_path {RUN}/scgi;

    log_format json escape=json '{{"t":"$time_iso8601","st":$status,"rt":$request_time,"up":"$upstream_addr","us":"$upstream_status",'
        '"ut":"$upstream_response_time","v":"$http_mcp_protocol_version","m":"$http_mcp_method","id":"$request_id"}}';
    access_log /dev/stdout json;

    server_tokens off;
    default_type application/json;
    max_headers 64;
    large_client_header_buffers 4 16k;
    client_max_body_size 8m;
    client_header_timeout 15s;
    client_body_timeout 30s;
    send_timeout 60s;
    keepalive_timeout 75s;
    gzip off;

    include {RUN}/resolver.conf;
    resolver_timeout 2s;

"#
    )
}

/// The pools of server pods.
fn upstreams(server: &ValidatedServer) -> String {
    let upstream = format!(
        "{}.{}.svc.{}:{}",
        component_name(&server.name, Component::Server),
        server.namespace,
        server.cluster_domain,
        server::PORT
    );
    let sticky = match server.server.sessions {
        Sessions::Shared => "",
        Sessions::Local => {
            "\n        sticky learn create=$upstream_http_mcp_session_id lookup=$http_mcp_session_id zone=mcp_sessions:8m timeout=1h header;"
        }
    };
    format!(
        r#"    map $http_mcp_protocol_version $mcp_pool {{
        "2026-07-28" modern;
        default legacy;
    }}

    upstream modern {{
        zone modern 256k;
        least_conn;
        server {upstream} resolve max_fails=3 fail_timeout=5s;
        keepalive 64;
    }}

    upstream legacy {{
        zone legacy 256k;
        least_conn;
        server {upstream} resolve max_fails=3 fail_timeout=5s;{sticky}
        keepalive 64;
    }}

"#
    )
}

/// What clients talk to: MCP, what clients must read before they log in (RFC 9728), and the REST shim of servers that have
/// one.
fn client_server(server: &ValidatedServer) -> String {
    let path = &server.server.path;
    let (refused, refusal) = refusal(server.server.protocol_mode).unwrap_or_default();
    format!(
        r#"{refused}    server {{
        listen {PORT} default_server;

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Request-Id $request_id;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_request_buffering on;
        proxy_buffering off;
        proxy_socket_keepalive on;
        proxy_connect_timeout 2s;
        proxy_send_timeout 60s;
        proxy_read_timeout 3600s;
        proxy_next_upstream error timeout;
        proxy_next_upstream_tries 2;
        proxy_next_upstream_timeout 5s;

        location = {path} {{{refusal}
            proxy_pass http://$mcp_pool;
        }}

        location {tools} {{
            proxy_pass http://modern;
        }}

        location /.well-known/oauth-protected-resource {{
            proxy_pass http://modern;
        }}

        location / {{
            return 404;
        }}
    }}

"#,
        tools = format_args!("{}/tool/", path.trim_end_matches('/')),
    )
}

/// What probes talk to, apart from client traffic. Readiness asks through the upstream: nginx alone serves nobody.
fn status_server(server: &ValidatedServer) -> String {
    let path = &server.server.path;
    format!(
        r#"    server {{
        listen {STATUS_PORT};
        access_log off;

        location = /healthz {{
            default_type text/plain;
            return 200 "ok\n";
        }}

        location = /readyz {{
            proxy_pass http://modern{path};
            proxy_method GET;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_set_header Accept application/json;
            proxy_connect_timeout 1s;
            proxy_read_timeout 2s;
            proxy_intercept_errors on;
            error_page 400 401 403 404 405 406 415 = @ready;
        }}

        location @ready {{
            default_type text/plain;
            return 200 "a server pod answers\n";
        }}

        location = /stub_status {{
            allow 127.0.0.1;
            deny all;
            stub_status;
        }}
    }}
"#
    )
}

/// Turns the clients of one era away, in the words of the protocol: -32022 with the versions that are served. The first
/// text says who is refused, the second refuses.
fn refusal(mode: ProtocolMode) -> Option<(String, String)> {
    let (pool, supported) = match mode {
        ProtocolMode::Auto => return None,
        ProtocolMode::Stateless => ("legacy", r#"["2026-07-28"]"#),
        ProtocolMode::Legacy => ("modern", r#"["2025-11-25","2025-06-18","2025-03-26"]"#),
    };
    let refused = format!(
        r#"    map "$request_method $mcp_pool" $mcp_is_refused {{
        # What the browser asks before a page may call carries no version yet.
        "~^OPTIONS " 0;
        "~ {pool}$" 1;
        default 0;
    }}

"#
    );
    let refusal = format!(
        r#"
            if ($mcp_is_refused) {{
                return 400 '{{"jsonrpc":"2.0","id":null,"error":{{"code":-32022,"message":"Unsupported protocol version","data":{{"supported":{supported}}}}}}}';
            }}"#
    );
    Some((refused, refusal))
}
