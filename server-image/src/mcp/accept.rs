//! Which forms of an answer a client accepts, by its `Accept` header.

use http::HeaderMap;
use http::header::ACCEPT;

use super::headers::only;

/// What MCP's own clients send: it need not be read each time.
const USUAL: &str = "application/json, text/event-stream";

/// The form of the answer to a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON document.
    Json,
    /// An event stream.
    Events,
}

/// The form that the client likes better. MCP obliges clients to accept both; `None` for one that does not say so.
pub(super) fn form(headers: &HeaderMap) -> Option<Form> {
    if only(headers, ACCEPT) == Some(USUAL) {
        return Some(Form::Json);
    }
    let (mut json, mut events) = (0.0, 0.0);
    for (name, weight) in accepted(headers) {
        if name.eq_ignore_ascii_case("application/json") {
            json = weight;
        } else if name.eq_ignore_ascii_case("text/event-stream") {
            events = weight;
        }
    }
    let both = json > 0.0 && events > 0.0;
    both.then_some(if events > json { Form::Events } else { Form::Json })
}

/// Whether a client that only listens accepts an event stream.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    accepted(headers).any(|(name, weight)| {
        let known = ["text/event-stream", "text/*", "*/*"];
        weight > 0.0 && known.iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// Media types with their weights (RFC 9110 section 12.5.1): 1 without a weight, and for one that is none.
fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (&str, f32)> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        (name, weight.and_then(|weight| weight.parse().ok()).unwrap_or(1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        headers
    }

    /// A client that is sent what it does not read waits for its answer until it gives up.
    #[test]
    fn the_client_gets_the_form_it_likes_better() {
        for (accept, expected) in [
            ("application/json, text/event-stream", Some(Form::Json)),
            ("text/event-stream,application/json", Some(Form::Json)),
            ("application/json;q=0.5, text/event-stream", Some(Form::Events)),
            ("application/json; q=0.9, Text/Event-Stream; Q=0.8", Some(Form::Json)),
            ("application/json;charset=utf-8, text/event-stream", Some(Form::Json)),
            ("application/json", None),
            ("text/event-stream", None),
            ("application/json;q=0, text/event-stream", None),
            ("*/*", None),
            ("", None),
        ] {
            assert_eq!(form(&headers(accept)), expected, "{accept}");
        }
    }

    #[test]
    fn listeners_may_accept_more_than_events() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, text/*", true),
            ("*/*;q=0.1", true),
            ("text/event-stream;q=0", false),
            ("application/json", false),
        ] {
            assert_eq!(accepts_events(&headers(accept)), expected, "{accept}");
        }
    }
}
