//! URIs of an agent's memory, `agent://{agent_id}/memory`, and how the id is written in them.
//!
//! Ids may hold characters that a URI may not, and a slash. Clients that fill in the template as RFC 6570 says write
//! `ci%2Fhelper` for `ci/helper`; others leave the slash, or the whole id, as it is.

use std::collections::BTreeSet;
use std::fmt::Write;

/// What is never escaped, beside letters and digits.
const UNRESERVED: &str = "-._~";
/// What `encodeURIComponent` leaves as well; the TypeScript SDK fills in templates with it.
const MARKS: &str = "!'()*";
/// What has a meaning in URIs and is left by clients that take the id for a path.
const RESERVED: &str = ":/?#[]@!$&'()*+,;=";

/// The id that `written` stands for; what has a broken escape, or makes no text, stands for itself.
pub(super) fn decoded(written: &str) -> String {
    unescaped(written).unwrap_or_else(|| written.to_owned())
}

fn unescaped(written: &str) -> Option<String> {
    let mut parts = written.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.extend(hex::decode(digits).ok()?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The URI that the template makes of an id.
pub(in crate::tools::shared_context) fn memory_uri(agent_id: &str) -> String {
    uri(&escaped(agent_id, ""))
}

/// The other URIs by which clients follow the same memory. News goes by the very URI that is followed, so it has to be
/// told under each.
///
/// No URI here is one of another agent's: an id that reads as the escaped form of another, such as `a%2Fb`, has none
/// in which it stands as it is, or whoever is called `a%2Fb` would hear of what `a/b` does.
pub(in crate::tools::shared_context) fn other_memory_uris(agent_id: &str) -> BTreeSet<String> {
    let is_plain = decoded(agent_id) == agent_id;
    let mut uris: BTreeSet<String> = [MARKS, RESERVED].map(|kept| uri(&escaped(agent_id, kept))).into();
    uris.extend(is_plain.then(|| uri(agent_id)));
    uris.remove(&memory_uri(agent_id));
    uris
}

fn uri(written: &str) -> String {
    format!("agent://{written}/memory")
}

fn escaped(agent_id: &str, kept: &str) -> String {
    let mut written = String::with_capacity(agent_id.len());
    for byte in agent_id.bytes() {
        let character = char::from(byte);
        if byte.is_ascii_alphanumeric() || UNRESERVED.contains(character) || kept.contains(character) {
            written.push(character);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(written, "%{byte:02X}");
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An id that is read as another shows no memory, or that of another agent of the same caller.
    #[test]
    fn escapes_are_resolved_once() {
        for (name, written, expected) in [
            ("plain", "ann", "ann"),
            ("slash", "ci%2Fhelper", "ci/helper"),
            ("small digits", "ci%2fhelper", "ci/helper"),
            ("several bytes", "m%C3%BCller", "müller"),
            ("unescaped", "ci/müller", "ci/müller"),
            ("escaped twice", "a%252Fb", "a%2Fb"),
            ("plus is no space", "a+b", "a+b"),
            ("no digits", "50%", "50%"),
            ("one digit", "a%2", "a%2"),
            ("other digits", "a%2Fb%zz", "a%2Fb%zz"),
            ("half a character", "a%2üb", "a%2üb"),
            ("no UTF-8", "a%2Fb%FF", "a%2Fb%FF"),
        ] {
            assert_eq!(decoded(written), expected, "{name}");
        }
    }

    /// A client that follows by one of these must hear of its memory.
    #[test]
    fn memory_is_known_by_the_uris_that_clients_write() {
        for (agent_id, by_template, others) in [
            ("ann", "ann", &[] as &[&str]),
            ("ci/helper", "ci%2Fhelper", &["ci/helper"]),
            ("ci/h(1)", "ci%2Fh%281%29", &["ci%2Fh(1)", "ci/h(1)"]),
            ("ci/müller", "ci%2Fm%C3%BCller", &["ci/m%C3%BCller", "ci/müller"]),
            ("a%2Fb", "a%252Fb", &[]),
            ("50%", "50%25", &["50%"]),
        ] {
            assert_eq!(memory_uri(agent_id), uri(by_template));
            let others = others.iter().map(|written| uri(written)).collect();
            assert_eq!(other_memory_uris(agent_id), others, "{agent_id}");
        }
    }

    proptest! {
        /// Two agents with a URI in common would hear of each other.
        #[test]
        fn no_uri_is_that_of_two_agents(agent_id in "([a%2F5/ü]|\\PC){1,12}") {
            for known in other_memory_uris(&agent_id).into_iter().chain([memory_uri(&agent_id)]) {
                let written = known.strip_prefix("agent://").and_then(|rest| rest.strip_suffix("/memory"));
                prop_assert_eq!(written.map(decoded), Some(agent_id.clone()), "{}", known);
            }
        }
    }
}
