//! Which scopes a request needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::{Principal, Refusal};

/// Stands for every tool that has no rule of its own, and likewise for [`LIKE_TOOLS`].
const ANY_TOOL: &str = "*";
/// Methods that show what tools show, or follow it. `completion/complete` is none: it offers fixed words alone.
const LIKE_TOOLS: &[&str] = &[
    "resources/read",
    "resources/subscribe",
    "prompts/get",
    "subscriptions/listen",
];
/// Methods that look like tools in a rule.
const PLAIN_METHODS: &[&str] = &["initialize"];

/// A set of scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn of_both(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<&str> = self.iter().collect();
        formatter.write_str(&scopes.join(" "))
    }
}

impl FromStr for Scopes {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        text.split_ascii_whitespace()
            .map(checked)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A scope that RFC 6749 does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a scope: letters, digits and punctuation other than \" and \\ are allowed, at least one")]
pub struct InvalidScope(String);

fn checked(scope: &str) -> Result<String, InvalidScope> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if !scope.is_empty() && scope.bytes().all(allowed) {
        Ok(scope.to_owned())
    } else {
        Err(InvalidScope(scope.to_owned()))
    }
}

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// It has no tool or no scope.
    #[error("`{0}` is not TOOL=SCOPE or TOOL=SCOPE+SCOPE, such as add_message=context:write")]
    Shape(String),
    /// A tool has two rules.
    #[error("`{0}` has two rules; write them as one: {0}=SCOPE+SCOPE")]
    Twice(String),
    /// Nothing has that name. What the rule was meant for would be open to everybody.
    #[error("`{name}` is neither a tool of this server nor a method that can have a rule; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// All names that there are.
        known: String,
    },
    /// A scope is not one.
    #[error(transparent)]
    Scope(#[from] InvalidScope),
}

/// Which scopes each request needs: those of every request, and those of its tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopeRules {
    every_request: Scopes,
    tools: BTreeMap<String, Scopes>,
}

impl ScopeRules {
    /// Rules of the form `TOOL=SCOPE+SCOPE`. TOOL is the name of a tool; or a JSON-RPC method other than `tools/call`,
    /// such as `resources/read`; or `*`, for each tool that has no rule of its own, and for each such method that shows
    /// or follows what tools show. A tool's scopes are needed besides those of every request.
    ///
    /// # Errors
    /// [`InvalidRule`] quotes what cannot be read.
    pub fn new<'a>(
        every_request: impl IntoIterator<Item = &'a str>,
        tools: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidRule> {
        let every_request = every_request.into_iter().map(checked).collect::<Result<_, _>>()?;
        let mut rules = Self {
            every_request: Scopes(every_request),
            tools: BTreeMap::new(),
        };
        for rule in tools {
            let (tool, scopes) = rule
                .split_once('=')
                .ok_or_else(|| InvalidRule::Shape(rule.to_owned()))?;
            if tool.is_empty() || scopes.is_empty() {
                return Err(InvalidRule::Shape(rule.to_owned()));
            }
            let scopes = Scopes(scopes.split('+').map(checked).collect::<Result<_, _>>()?);
            if rules.tools.insert(tool.to_owned(), scopes).is_some() {
                return Err(InvalidRule::Twice(tool.to_owned()));
            }
        }
        Ok(rules)
    }

    /// Makes sure that each rule is about something: `known` are the names of all tools and methods.
    ///
    /// # Errors
    /// [`InvalidRule::Unknown`] names the first that is not.
    pub fn check_names(&self, known: &[&str]) -> Result<(), InvalidRule> {
        let is_known = |name: &str| name == ANY_TOOL || known.contains(&name);
        match self.tools.keys().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) => Err(InvalidRule::Unknown {
                name: name.clone(),
                known: known.join(", "),
            }),
        }
    }

    /// Whether any tool needs anything.
    #[must_use]
    pub fn know_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Methods that show or follow what tools show, and that no rule covers although there are rules for tools.
    #[must_use]
    pub fn ways_around(&self) -> Vec<&'static str> {
        let is_tool = |name: &str| !name.contains('/') && !PLAIN_METHODS.contains(&name);
        if !self.tools.keys().any(|name| is_tool(name)) {
            return Vec::new();
        }
        let open = LIKE_TOOLS.iter().filter(|method| self.rule(method, "").is_none());
        open.copied().collect()
    }

    /// What every request needs.
    #[must_use]
    pub const fn of_every_request(&self) -> &Scopes {
        &self.every_request
    }

    /// Every scope that any request can need.
    pub fn all(&self) -> BTreeSet<&str> {
        self.tools
            .values()
            .chain([&self.every_request])
            .flat_map(Scopes::iter)
            .collect()
    }

    /// Lets a caller in, whatever it asks for.
    ///
    /// # Errors
    /// [`Refusal::InsufficientScope`] when it lacks what every request needs.
    pub fn admit(&self, principal: &Principal) -> Result<(), Refusal> {
        allow(principal, &self.every_request, &Scopes::default())
    }

    /// Lets a caller do one thing: `method` is the JSON-RPC method, `tool` the tool of a `tools/call` and empty for
    /// other methods.
    ///
    /// # Errors
    /// [`Refusal::InsufficientScope`] with all that is needed.
    pub fn allow(&self, principal: &Principal, method: &str, tool: &str) -> Result<(), Refusal> {
        self.rule(method, tool)
            .map_or(Ok(()), |needed| allow(principal, needed, &self.every_request))
    }

    fn rule(&self, method: &str, tool: &str) -> Option<&Scopes> {
        let (name, is_any) = if tool.is_empty() {
            (method, LIKE_TOOLS.contains(&method))
        } else {
            (tool, true)
        };
        let any = || self.tools.get(ANY_TOOL).filter(|_| is_any);
        self.tools.get(name).or_else(any)
    }
}

fn allow(principal: &Principal, needed: &Scopes, besides: &Scopes) -> Result<(), Refusal> {
    if needed.0.is_subset(&principal.scopes) {
        return Ok(());
    }
    Err(Refusal::InsufficientScope {
        needed: needed.of_both(besides),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scopes: &str) -> Principal {
        Principal::new("a", scopes.parse::<Scopes>().unwrap().0).unwrap()
    }

    /// One scope too few is a hole, one too many locks people out.
    #[test]
    fn a_tool_needs_its_own_scopes() {
        let rules = [
            "add_message=write",
            "get_performance_metrics=read+admin",
            "*=read",
            "resources/read=see",
        ];
        let rules = ScopeRules::new(["mcp"], rules).unwrap();
        for (name, scopes, method, tool, needed) in [
            ("own rule", "mcp write", "tools/call", "add_message", None),
            (
                "own rule, not met",
                "mcp read",
                "tools/call",
                "add_message",
                Some("mcp write"),
            ),
            (
                "two scopes, one held",
                "mcp admin",
                "tools/call",
                "get_performance_metrics",
                Some("admin mcp read"),
            ),
            ("any tool", "mcp", "tools/call", "get_messages", Some("mcp read")),
            ("any tool, met", "read", "tools/call", "get_messages", None),
            ("unknown tool", "", "tools/call", "unknown", Some("mcp read")),
            ("method", "read", "resources/read", "", Some("mcp see")),
            ("method, met", "see", "resources/read", "", None),
            ("prompt", "see", "prompts/get", "", Some("mcp read")),
            ("prompt, met", "read", "prompts/get", "", None),
            ("following", "see", "resources/subscribe", "", Some("mcp read")),
            ("following, met", "read", "resources/subscribe", "", None),
            ("stream", "see", "subscriptions/listen", "", Some("mcp read")),
            ("stream, met", "read", "subscriptions/listen", "", None),
            ("method without data", "", "tools/list", "", None),
            ("fixed words", "", "completion/complete", "", None),
            (
                "similar scope",
                "reader read:all",
                "tools/call",
                "get_messages",
                Some("mcp read"),
            ),
        ] {
            let refused = rules.allow(&caller(scopes), method, tool).err();
            let expected = needed.map(|needed| Refusal::InsufficientScope {
                needed: needed.parse().unwrap(),
            });
            assert_eq!(refused, expected, "{name}");
        }
        assert!(rules.admit(&caller("mcp")).is_ok() && rules.admit(&caller("read")).is_err());
        assert!(ScopeRules::default().allow(&caller(""), "tools/call", "x").is_ok());
    }

    /// Who believes a tool's data guarded must be told of every other way to them.
    #[test]
    fn ways_around_tools_are_known() {
        for (rules, expected) in [
            (&[][..], &[][..]),
            (&["resources/read=a", "initialize=a"], &[]),
            (&["get_messages=a", "*=b"], &[]),
            (&["*=a", "resources/read=b"], &[]),
            (&["get_messages=a"], LIKE_TOOLS),
            (
                &["get_messages=a", "resources/read=a", "resources/subscribe=a"],
                &["prompts/get", "subscriptions/listen"],
            ),
        ] {
            let found = ScopeRules::new([], rules.iter().copied()).unwrap().ways_around();
            assert_eq!(found, expected, "{rules:?}");
        }
    }

    #[test]
    fn bad_rules_are_quoted() {
        for (rules, expected) in [
            (&["add_message"][..], "`add_message` is not TOOL=SCOPE"),
            (&["=x"], "`=x` is not"),
            (&["a="], "`a=` is not"),
            (&["a=b+"], "`` is not a scope"),
            (&["a=b", "a=c"], "`a` has two rules"),
            (&["a=\"b\""], "is not a scope"),
        ] {
            let message = ScopeRules::new([], rules.iter().copied()).unwrap_err().to_string();
            assert!(message.contains(expected), "{rules:?}: {message}");
        }
    }
}
