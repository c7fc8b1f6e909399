//! Where the load goes. A load tester pointed at a stranger's server is an attack, so that takes an extra flag.

use std::net::{IpAddr, Ipv4Addr};

use http::Uri;

use crate::error::PlanError;

/// Reads the URL and resolves its host.
///
/// # Errors
/// A URL that is not plain HTTP, a host that does not resolve, or (unless `allow_any_host`) one of whose addresses is
/// neither loopback nor private.
pub(crate) async fn resolve(url: &str, allow_any_host: bool) -> Result<Uri, PlanError> {
    let refuse = |why: String| PlanError::target(url, why);
    let uri: Uri = url.parse().map_err(|error| refuse(format!("not a URL ({error})")))?;
    if uri.scheme_str() != Some("http") {
        return Err(refuse(
            "only http:// is supported, for example http://127.0.0.1:8080/mcp".to_owned(),
        ));
    }
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| refuse("it names no host".to_owned()))?;
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<IpAddr> = tokio::net::lookup_host((bare_host, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| {
            refuse(format!(
                "host `{host}` does not resolve ({error}); check the name and the DNS server"
            ))
        })?
        .map(|address| address.ip())
        .collect();
    match addresses
        .into_iter()
        .find(|address| !allow_any_host && !is_local(*address))
    {
        Some(address) => Err(refuse(format!(
            "its address {address} is neither loopback nor private. Load only servers you run; \
             if this is one, add --allow-any-host"
        ))),
        None => Ok(uri),
    }
}

/// Loopback, private (RFC 1918, RFC 4193), link-local and carrier-grade NAT (RFC 6598, used for pods by some clouds).
fn is_local(address: IpAddr) -> bool {
    let in_shared_space = |v4: Ipv4Addr| v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || in_shared_space(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_servers_of_ones_own_are_loaded_without_the_extra_flag() {
        let cases = [
            ("loopback", "http://127.0.0.1:8080/mcp", true),
            ("loopback name", "http://localhost:8080/mcp", true),
            ("cluster address", "http://10.96.0.17/mcp", true),
            ("IPv6 loopback", "http://[::1]:8080/mcp", true),
            ("IPv6 unique local", "http://[fd00::1]/mcp", true),
            ("pods of some clouds", "http://100.64.1.2/mcp", true),
            ("a public address", "http://192.0.2.1/mcp", false),
            ("a public address as IPv6", "http://[::ffff:192.0.2.1]/mcp", false),
            ("a public IPv6 address", "http://[2001:db8::1]/mcp", false),
        ];
        for (name, url, local) in cases {
            assert_eq!(resolve(url, false).await.is_ok(), local, "{name}");
            assert!(resolve(url, true).await.is_ok(), "{name}, with the flag");
        }
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_used_says_why() {
        let cases = [
            ("TLS", "https://127.0.0.1/mcp", "only http://"),
            ("no scheme", "127.0.0.1:8080", "only http://"),
            ("not a URL", "http://[", "not a URL"),
            ("unknown host", "http://no-such-host.invalid/mcp", "does not resolve"),
        ];
        for (name, url, reason) in cases {
            let message = resolve(url, true).await.unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
        }
    }
}
