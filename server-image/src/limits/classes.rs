//! Classes of requests, and how often each may come.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::guard::Wanted;

/// The word for the limits that the shared-context server documents.
const DOCUMENTED: &str = "documented";
/// Those limits, per agent.
const DOCUMENTED_RATES: &[(Class, &str)] = &[
    (Class::Auth, "60/min+1000/h"),
    (Class::Messages, "1000/min"),
    (Class::Search, "100/min"),
    (Class::Memory, "500/min"),
];

/// Requests that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Every message that arrives, whatever it asks for.
    All,
    /// `authenticate_agent` and `refresh_token`.
    Auth,
    /// `add_message`, `get_messages` and `get_session`, and the resources and the prompt that show messages.
    Messages,
    /// `search_context`, `search_by_sender` and `search_by_timerange`.
    Search,
    /// `set_memory`, `get_memory` and `list_memory`, and the resource that shows memory.
    Memory,
}

impl Class {
    const EACH: &[Self] = &[Self::All, Self::Auth, Self::Messages, Self::Search, Self::Memory];

    /// Its name in settings and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Auth => "auth",
            Self::Messages => "messages",
            Self::Search => "search",
            Self::Memory => "memory",
        }
    }

    /// The classes of a request, the narrowest first. What a tool shows counts as that tool wherever it is shown.
    pub fn of(wanted: &Wanted<'_>) -> impl Iterator<Item = Self> + use<> {
        let own = match wanted.method {
            "resources/read" => Self::of_resource(&wanted.subject),
            "prompts/get" => (wanted.subject == "debug-session").then_some(Self::Messages),
            _ => Self::of_tool(wanted.tool),
        };
        own.into_iter().chain([Self::All])
    }

    fn of_tool(tool: &str) -> Option<Self> {
        match tool {
            "authenticate_agent" | "refresh_token" => Some(Self::Auth),
            "add_message" | "get_messages" | "get_session" => Some(Self::Messages),
            "search_context" | "search_by_sender" | "search_by_timerange" => Some(Self::Search),
            "set_memory" | "get_memory" | "list_memory" => Some(Self::Memory),
            _ => None,
        }
    }

    fn of_resource(uri: &str) -> Option<Self> {
        match uri.split_once("://") {
            Some(("session", _)) => Some(Self::Messages),
            Some(("agent", _)) => Some(Self::Memory),
            _ => None,
        }
    }
}

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; all of them may come at once.
    pub requests: NonZeroU32,
    /// In which time: a second, a minute or an hour.
    pub period: Duration,
}

impl Rate {
    /// Time in which one request comes back.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.period / self.requests.get()).max(Duration::from_nanos(1))
    }
}

impl FromStr for Rate {
    type Err = InvalidRates;

    fn from_str(text: &str) -> Result<Self, InvalidRates> {
        let invalid = || InvalidRates::Rate(text.to_owned());
        let (requests, unit) = text.split_once('/').ok_or_else(invalid)?;
        let period = match unit {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(invalid()),
        };
        let requests = requests.parse().map_err(|_| invalid())?;
        Ok(Self { requests, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{} s", self.requests, self.period.as_secs())
    }
}

/// The rates of all classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates(BTreeMap<Class, Vec<Rate>>);

/// Rates that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRates {
    /// Not a rule.
    #[error("`{0}` is not CLASS=RATE or CLASS=RATE+RATE, such as search=100/min, nor the word documented")]
    Rule(String),
    /// Not a class.
    #[error("`{0}` is not a class; there are all, auth, messages, search and memory")]
    Class(String),
    /// Not a rate.
    #[error("`{0}` is not a rate: a number above 0, and per s, min or h, such as 100/min")]
    Rate(String),
}

impl Rates {
    /// Rules of the form `CLASS=RATE+RATE`, and the word `documented` for the limits that the shared-context server
    /// documents; of two rules for a class the later counts.
    ///
    /// # Errors
    /// [`InvalidRates`] quotes what cannot be read.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidRates> {
        let mut rates = Self::default();
        for rule in rules {
            if rule == DOCUMENTED {
                for (class, text) in DOCUMENTED_RATES {
                    rates.0.insert(*class, list(text)?);
                }
                continue;
            }
            let (class, text) = rule
                .split_once('=')
                .ok_or_else(|| InvalidRates::Rule(rule.to_owned()))?;
            let found = Class::EACH.iter().find(|known| known.name() == class);
            let class = found.ok_or_else(|| InvalidRates::Class(class.to_owned()))?;
            rates.0.insert(*class, list(text)?);
        }
        Ok(rates)
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The classes that are limited.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        self.0.keys().copied()
    }

    /// The rates of a class, none if it is not limited.
    #[must_use]
    pub fn of(&self, class: Class) -> &[Rate] {
        self.0.get(&class).map_or(&[], Vec::as_slice)
    }
}

fn list(text: &str) -> Result<Vec<Rate>, InvalidRates> {
    let mut rates: Vec<Rate> = text.split('+').map(str::parse).collect::<Result<_, _>>()?;
    // The shortest first: a request that it refuses does not use up a longer one.
    rates.sort_by_key(|rate| rate.period);
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source document's limits, by the names people know.
    #[test]
    fn rules_are_read() {
        let rates = Rates::new(["documented", "memory=7/s", "all=20000/h"]).unwrap();
        let of = |class| rates.of(class).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of(Class::Auth), ["60/60 s", "1000/3600 s"]);
        assert_eq!(of(Class::Messages), ["1000/60 s"]);
        assert_eq!(of(Class::Search), ["100/60 s"]);
        assert_eq!(of(Class::Memory), ["7/1 s"], "the later rule counts");
        assert_eq!(of(Class::All), ["20000/3600 s"]);
        let rates = Rates::new(["all=9/h+1/s+5/min"]).unwrap();
        let periods = rates.of(Class::All).iter().map(|rate| rate.period.as_secs());
        assert_eq!(periods.collect::<Vec<_>>(), [1, 60, 3600], "the shortest first");
        for (rule, expected) in [
            ("search", "is not CLASS=RATE"),
            ("find=1/s", "`find` is not a class"),
            ("search=0/s", "`0/s` is not a rate"),
            ("search=5", "`5` is not a rate"),
            ("search=5/day", "per s, min or h"),
            ("search=5/s+", "`` is not a rate"),
            ("search=-1/s", "is not a rate"),
        ] {
            let message = Rates::new([rule]).unwrap_err().to_string();
            assert!(message.contains(expected), "{rule}: {message}");
        }
    }

    /// Whoever may read no more messages by a tool must not read them as a resource.
    #[test]
    fn what_is_shown_has_its_class_wherever_it_is_shown() {
        let call = "tools/call";
        for (method, tool, subject, expected) in [
            (call, "search_context", "", Some(Class::Search)),
            (call, "set_memory", "", Some(Class::Memory)),
            (call, "refresh_token", "", Some(Class::Auth)),
            (call, "get_session", "", Some(Class::Messages)),
            (call, "create_session", "", None),
            (
                "resources/read",
                "",
                "session://session_1/messages/9",
                Some(Class::Messages),
            ),
            ("resources/read", "", "session://session_1", Some(Class::Messages)),
            ("resources/read", "", "agent://ann/memory", Some(Class::Memory)),
            ("resources/read", "", "server://info/x", None),
            ("prompts/get", "", "debug-session", Some(Class::Messages)),
            ("prompts/get", "", "setup-collaboration", None),
            ("", "", "", None),
        ] {
            let wanted = Wanted {
                method,
                tool,
                subject: subject.to_owned(),
                id: serde_json::Value::Null,
            };
            let expected: Vec<Class> = expected.into_iter().chain([Class::All]).collect();
            assert_eq!(
                Class::of(&wanted).collect::<Vec<_>>(),
                expected,
                "{method} {tool} {subject}"
            );
        }
    }
}
