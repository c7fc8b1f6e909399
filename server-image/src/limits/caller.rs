//! Whose requests are counted together.
//!
//! A verified caller is known by its name. Others are known by their address: the connection's, unless that is a proxy
//! of `--trusted-proxies`; then it is the last address in `X-Forwarded-For` that is not such a proxy. Whatever stands
//! before that was written by the client and may be invented. An IPv6 client owns its whole /64, so that is what
//! counts. With neither a name nor proxies that are trusted, all clients behind one proxy share their limits.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::request::Parts;
use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use crate::auth::Principal;
use crate::transport::Peer;

/// A caller in tables of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The hash of its name: so every name takes the same memory.
    Name([u8; 16]),
    /// Its address; of an IPv6 address its network.
    Address(IpAddr),
    /// Nothing is known of it.
    Unknown,
}

impl Caller {
    /// What stands for it outside of this process, where its address is nobody's business.
    #[must_use]
    pub fn hashed(self) -> [u8; 16] {
        match self {
            Self::Name(hash) => hash,
            Self::Address(IpAddr::V4(address)) => hash("address", &address.octets()),
            Self::Address(IpAddr::V6(address)) => hash("address", &address.octets()[..8]),
            Self::Unknown => hash("none", &[]),
        }
    }
}

/// The caller of a request.
#[must_use]
pub fn of(request: &Parts, trusted_proxies: &[IpNet]) -> Caller {
    if let Some(principal) = request.extensions.get::<Arc<Principal>>() {
        return Caller::Name(hash("name", principal.subject.as_bytes()));
    }
    by_address(&request.extensions, &request.headers, trusted_proxies)
}

/// The caller of a request by its address alone.
#[must_use]
pub fn by_address(extensions: &Extensions, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Caller {
    let Some(peer) = extensions.get::<Peer>() else {
        return Caller::Unknown;
    };
    Caller::Address(match client(peer.0.ip().to_canonical(), headers, trusted_proxies) {
        IpAddr::V6(address) => IpAddr::V6(network(address)),
        v4 @ IpAddr::V4(_) => v4,
    })
}

fn hash(kind: &str, name: &[u8]) -> [u8; 16] {
    let digest = digest(&SHA256, &[kind.as_bytes(), b":", name].concat());
    let mut hash = [0; 16];
    hash.iter_mut()
        .zip(digest.as_ref())
        .for_each(|(byte, hashed)| *byte = *hashed);
    hash
}

fn network(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)
}

fn client(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: IpAddr| trusted_proxies.iter().any(|proxies| proxies.contains(&address));
    if !trusted(peer) {
        return peer;
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().rev();
    let hops = forwarded.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    let mut last = peer;
    for hop in hops {
        // What a trusted proxy did not write as an address tells nothing about what is before it.
        let Some(address) = parse(hop.trim()) else {
            return last;
        };
        last = address;
        if !trusted(address) {
            return address;
        }
    }
    last
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse::<IpAddr>()
        .or_else(|_| hop.parse::<std::net::SocketAddr>().map(|address| address.ip()))
        .ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever can choose its own address has no limit; whoever gets another's is locked out.
    #[test]
    fn only_proxies_that_are_trusted_are_believed() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (name, peer, forwarded, expected) in [
            ("direct", "1.2.3.4", &[][..], "1.2.3.4"),
            ("invented", "1.2.3.4", &["9.9.9.9"], "1.2.3.4"),
            ("through a proxy", "10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("invented before a proxy", "10.0.0.1", &["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
            ("two headers", "10.0.0.1", &["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
            ("two proxies", "10.0.0.1", &["9.9.9.9, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("with a port", "10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("a proxy's own request", "10.0.0.1", &[], "10.0.0.1"),
            ("not an address", "10.0.0.1", &["1.2.3.4, unknown"], "10.0.0.1"),
            ("IPv6", "fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("IPv4 within IPv6", "::ffff:10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let peer: IpAddr = peer.parse().unwrap();
            let found = client(peer.to_canonical(), &headers, &trusted);
            assert_eq!(found.to_string(), expected, "{name}");
        }
    }

    #[test]
    fn callers_differ_by_name_then_by_address() {
        let request = |subject: Option<&str>, address: &str| {
            let (mut parts, ()) = http::Request::new(()).into_parts();
            parts.extensions.insert(Peer(format!("{address}:1").parse().unwrap()));
            if let Some(subject) = subject {
                let principal = Principal::new(subject, std::collections::BTreeSet::new()).unwrap();
                parts.extensions.insert(Arc::new(principal));
            }
            of(&parts, &[])
        };
        assert_eq!(request(Some("a"), "1.1.1.1"), request(Some("a"), "2.2.2.2"));
        assert_ne!(request(Some("a"), "1.1.1.1"), request(Some("b"), "1.1.1.1"));
        assert_ne!(request(None, "1.1.1.1"), request(None, "2.2.2.2"));
        assert_eq!(
            request(None, "[2001:db8::1]"),
            request(None, "[2001:db8::ffff:2]"),
            "one client's network"
        );
        assert_ne!(request(None, "[2001:db8::1]"), request(None, "[2001:db8:0:1::1]"));
    }
}
