//! What there can be news of, and its form between replicas.

use std::ops::Range;

/// Something that can change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The list of resources.
    Resources,
    /// The resource with this URI.
    Resource(String),
    /// The events of the stream with this id, of a client up to 2025-11-25.
    Stream(String),
    /// The letters for the replica with this id.
    Mail(String),
    /// Anything may have changed.
    Everything,
}

impl Topic {
    /// From the first to before the first beyond the resources beneath this one; empty for what is no resource, and for
    /// agents' resources: ids of agents have slashes, so what reads as beneath one agent's is another agent's.
    pub(super) fn beneath(&self) -> Range<Self> {
        match self {
            // The character after the slash.
            Self::Resource(uri) if !uri.starts_with("agent://") => {
                Self::Resource(format!("{uri}/"))..Self::Resource(format!("{uri}0"))
            }
            other => other.clone()..other.clone(),
        }
    }

    /// One line of text: a letter for the kind, then the name, in which line breaks are escaped.
    pub(super) fn encode(&self) -> String {
        let (kind, name) = match self {
            Self::Tools => ('t', ""),
            Self::Prompts => ('p', ""),
            Self::Resources => ('l', ""),
            Self::Resource(uri) => ('r', uri.as_str()),
            Self::Stream(id) => ('s', id.as_str()),
            Self::Mail(replica) => ('m', replica.as_str()),
            Self::Everything => ('*', ""),
        };
        format!(
            "{kind}{}",
            name.replace('\\', "\\\\").replace('\n', "\\n").replace('\0', "")
        )
    }

    /// The topic of a line; `None` for a kind that a newer version of this server may have added.
    pub(super) fn decode(line: &str) -> Option<Self> {
        let mut characters = line.chars();
        let kind = characters.next()?;
        let name = unescape(characters.as_str());
        Some(match kind {
            't' => Self::Tools,
            'p' => Self::Prompts,
            'l' => Self::Resources,
            'r' => Self::Resource(name),
            's' => Self::Stream(name),
            'm' => Self::Mail(name),
            '*' => Self::Everything,
            _ => return None,
        })
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' if characters.next() == Some('n') => '\n',
            other => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_survives_the_way_to_another_replica() {
        for topic in [
            Topic::Tools,
            Topic::Prompts,
            Topic::Resources,
            Topic::Everything,
            Topic::Mail("m".into()),
        ] {
            assert_eq!(Topic::decode(&topic.encode()), Some(topic));
        }
        for unknown in ["", "?x"] {
            assert_eq!(Topic::decode(unknown), None);
        }
    }

    proptest! {
        /// A URI is the client's text: whatever is in it must neither be changed nor break into other lines.
        #[test]
        fn names_survive_the_way_to_another_replica(uri in "[^\0]{0,80}") {
            for topic in [Topic::Resource(uri.clone()), Topic::Stream(uri.clone())] {
                let line = topic.encode();
                prop_assert!(!line.contains('\n'));
                prop_assert_eq!(Topic::decode(&line), Some(topic));
            }
        }
    }
}
