//! What of a message is searched: sender, content and, if wanted, the values of its metadata, in lower case, joined by
//! spaces.

use serde_json::{Map, Value};

/// A message as the search sees it, borrowed from the row that it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Searched<'a> {
    /// Id of the message.
    pub id: i64,
    /// Agent that sent it.
    pub sender: &'a str,
    /// Its text.
    pub content: &'a str,
    /// Its metadata as JSON text; `None` if it has none or none is wanted.
    pub metadata: Option<&'a str>,
}

impl Searched<'_> {
    /// Replaces what is in `text` by the text to compare a query with.
    pub(super) fn write_to(self, text: &mut String) {
        text.clear();
        text.push_str(self.sender);
        text.push(' ');
        text.push_str(self.content);
        if let Some(metadata) = self.metadata {
            push_values(metadata, text);
        }
        lower(text);
    }
}

/// In lower case.
pub(super) fn lower(text: &mut String) {
    if text.is_ascii() {
        text.make_ascii_lowercase();
    } else {
        *text = text.to_lowercase();
    }
}

/// Values that say something: text, numbers and truth, but neither what is empty, zero or false nor what is nested.
fn push_values(metadata: &str, text: &mut String) {
    // What is stored as metadata is an object; anything else was put there by somebody else, and has no values.
    let Ok(values) = serde_json::from_str::<Map<String, Value>>(metadata) else {
        return;
    };
    for value in values.values() {
        match value {
            Value::String(value) if !value.is_empty() => push(value, text),
            Value::Number(number) if number.as_f64() != Some(0.0) => push(&number.to_string(), text),
            Value::Bool(true) => push("true", text),
            _ => {}
        }
    }
}

fn push(value: &str, text: &mut String) {
    text.push(' ');
    text.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not in the text cannot be found, and what does not belong there lowers scores.
    #[test]
    fn the_text_is_sender_content_and_simple_values() {
        for (name, content, metadata, expected) in [
            ("no metadata", "Hello", None, "ann hello"),
            (
                "values in order",
                "Hi",
                Some(r#"{"b":"Z","a":1.5,"n":-3}"#),
                "ann hi z 1.5 -3",
            ),
            ("truth", "Hi", Some(r#"{"a":true,"b":false}"#), "ann hi true"),
            (
                "nothing to say",
                "Hi",
                Some(r#"{"a":"","b":0,"c":0.0,"d":null,"e":-0}"#),
                "ann hi",
            ),
            ("nested", "Hi", Some(r#"{"a":{"b":"x"},"c":["y"]}"#), "ann hi"),
            ("no object", "Hi", Some(r#"["x"]"#), "ann hi"),
            ("damaged", "Hi", Some(r#"{"a":"x"#), "ann hi"),
            ("other alphabets", "ΟΔΟΣ ÄÖÜ İ", None, "ann οδος äöü i\u{307}"),
        ] {
            let mut text = "left over".to_owned();
            Searched {
                id: 1,
                sender: "Ann",
                content,
                metadata,
            }
            .write_to(&mut text);
            assert_eq!(text, expected, "{name}");
        }
    }
}
