//! What a response says about itself: the model that answered and the tokens it cost.
//!
//! OpenAI's objects say `usage.prompt_tokens` and `completion_tokens`, its Responses and Anthropic's
//! Messages `usage.input_tokens` and `output_tokens`; in a stream the numbers come late, inside
//! `response` or `message` for some events.

use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde_json::Value;

use super::members::Members;

/// The longest line of an event stream that is read; longer ones pass unread.
const MOST_LINE_BYTES: usize = 1024 * 1024;

/// What was learned.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) model: Option<String>,
    pub(crate) input_tokens: Option<u64>,
    pub(crate) output_tokens: Option<u64>,
}

/// A look at a response as it streams past.
#[derive(Debug)]
pub(crate) enum UsageReader {
    /// One JSON object.
    Object(Members),
    /// Server-sent events.
    Events(Events),
    /// Something else.
    Unread,
}

/// The lines of an event stream, and what they told.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    is_too_long: bool,
    usage: Usage,
}

impl UsageReader {
    pub(crate) fn of(headers: &HeaderMap) -> UsageReader {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if kind.starts_with("text/event-stream") {
            UsageReader::Events(Events::default())
        } else if kind.contains("json") {
            UsageReader::Object(Members::new(&["model", "usage"]))
        } else {
            UsageReader::Unread
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self {
            UsageReader::Object(members) => members.push(bytes),
            UsageReader::Events(events) => events.push(bytes),
            UsageReader::Unread => {}
        }
    }

    pub(crate) fn finish(&mut self) -> Usage {
        match self {
            UsageReader::Object(members) => {
                let mut usage = Usage {
                    model: members.text(0),
                    ..Usage::default()
                };
                let tokens = members
                    .value(1)
                    .and_then(|raw| serde_json::from_slice::<Option<Tokens>>(raw).ok())
                    .flatten();
                usage.add(tokens);
                usage
            }
            UsageReader::Events(events) => {
                events.line_ended();
                std::mem::take(&mut events.usage)
            }
            UsageReader::Unread => Usage::default(),
        }
    }
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n' || *byte == b'\r') {
            if self.line.len() + piece.len() > MOST_LINE_BYTES {
                self.is_too_long = true;
                self.line.clear();
            } else if !self.is_too_long {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") || piece.ends_with(b"\r") {
                self.line_ended();
            }
        }
    }

    fn line_ended(&mut self) {
        let is_whole = !std::mem::take(&mut self.is_too_long);
        if is_whole
            && let Some(data) = self.line.strip_prefix(b"data:")
            && let Ok(event) = serde_json::from_slice::<Event>(data)
        {
            for part in [event.message, event.response].into_iter().flatten() {
                self.usage.name(part.model);
                self.usage.add(part.usage);
            }
            self.usage.name(event.model);
            self.usage.add(event.usage);
        }
        self.line.clear();
    }
}

impl Usage {
    fn name(&mut self, model: Option<Value>) {
        if let Some(Value::String(model)) = model {
            self.model = Some(model);
        }
    }

    /// Later numbers replace earlier ones: streams count up.
    fn add(&mut self, tokens: Option<Tokens>) {
        let Some(tokens) = tokens else { return };
        let number = |value: Option<Value>| value.and_then(|value| value.as_u64());
        let input = number(tokens.prompt_tokens).or(number(tokens.input_tokens));
        let output = number(tokens.completion_tokens).or(number(tokens.output_tokens));
        self.input_tokens = input.or(self.input_tokens);
        self.output_tokens = output.or(self.output_tokens);
    }
}

#[derive(Deserialize)]
struct Event {
    model: Option<Value>,
    usage: Option<Tokens>,
    message: Option<Part>,
    response: Option<Part>,
}

#[derive(Deserialize)]
struct Part {
    model: Option<Value>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Tokens {
    prompt_tokens: Option<Value>,
    completion_tokens: Option<Value>,
    input_tokens: Option<Value>,
    output_tokens: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &'static str, text: &str, size: usize) -> Usage {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let mut reader = UsageReader::of(&headers);
        for piece in text.as_bytes().chunks(size) {
            reader.push(piece);
        }
        reader.finish()
    }

    fn usage(model: &str, input: u64, output: u64) -> Usage {
        Usage {
            model: Some(model.to_owned()),
            input_tokens: Some(input),
            output_tokens: Some(output),
        }
    }

    #[test]
    fn the_cost_is_read_from_objects_and_streams_of_both_dialects() {
        for (kind, text, expected) in [
            (
                "application/json; charset=utf-8",
                r#"{"model":"m","choices":[{"usage":{}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#,
                usage("m", 5, 7),
            ),
            (
                "application/json",
                r#"{"usage":{"input_tokens":1,"output_tokens":2},"model":"c"}"#,
                usage("c", 1, 2),
            ),
            (
                "text/event-stream",
                "data: {\"model\":\"m\",\"usage\":null}\n\n: note\n\ndata: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\r\n\r\ndata: [DONE]\n\n",
                usage("m", 3, 4),
            ),
            (
                "text/event-stream",
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"c\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n",
                usage("c", 9, 15),
            ),
            (
                "text/event-stream",
                "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"r\",\"usage\":{\"input_tokens\":2,\"output_tokens\":3}}}",
                usage("r", 2, 3),
            ),
        ] {
            for size in [1, 2, 7, 1000] {
                assert_eq!(read(kind, text, size), expected, "{text} by {size}");
            }
        }
    }

    #[test]
    fn what_a_response_does_not_tell_stays_unknown() {
        for (kind, text) in [
            ("text/plain", r#"{"model":"m"}"#),
            ("application/json", "not json"),
            ("application/json", r#"{"usage":"many"}"#),
            (
                "text/event-stream",
                "data: {\"usage\":{\"prompt_tokens\":-1}}\n\n",
            ),
        ] {
            assert_eq!(read(kind, text, 5), Usage::default(), "{text}");
        }
    }

    #[test]
    fn a_line_without_end_is_passed_over_and_the_next_one_read() {
        let text = format!(
            "data: {}\ndata: {{\"model\":\"m\",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":2}}}}\n",
            "x".repeat(MOST_LINE_BYTES + 5)
        );
        assert_eq!(read("text/event-stream", &text, 4096), usage("m", 1, 2));
    }
}
