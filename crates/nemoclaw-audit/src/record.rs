//! One line back to a record, strictly.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::entry::Entry;

/// One entry as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the entry in its log, from 1.
    pub sequence: u64,
    /// When it was written: RFC 3339, UTC, microseconds.
    pub timestamp: String,
    /// The SHA-256 digest of the line before, in hexadecimal; 64 zeros for the first.
    pub previous: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not UTF-8.
    #[error("the line is not UTF-8")]
    Encoding,
    /// The line is longer than [`crate::MAX_LINE`].
    #[error("the line is longer than {} bytes", crate::MAX_LINE)]
    TooLong,
    /// The last line has no newline: a write was cut short.
    #[error("the line has no end: a write was cut short")]
    Torn,
    /// A control character outside a string, which no writer of this program leaves.
    #[error("the line holds a control character")]
    ControlCharacter,
    /// An object names one key twice, so that readers could disagree about its value.
    #[error("the key `{}` occurs twice", crate::Shown(.0))]
    DuplicateKey(String),
    /// It is not JSON, or not an entry.
    #[error("the line is not an entry: {}", crate::Shown(.0))]
    Json(String),
    /// The timestamp is not RFC 3339.
    #[error("the timestamp `{}` is not RFC 3339", crate::Shown(.0))]
    Timestamp(String),
}

impl Record {
    /// Reads one line, without its newline.
    ///
    /// Fields this version does not know are accepted: a later version may have written them.
    ///
    /// # Errors
    ///
    /// Says why the line is no record.
    pub fn parse(line: &[u8]) -> Result<Self, RecordError> {
        if line.len() > crate::MAX_LINE {
            return Err(RecordError::TooLong);
        }
        let text = str::from_utf8(line).map_err(|_| RecordError::Encoding)?;
        if text.bytes().any(|byte| byte < b' ') {
            return Err(RecordError::ControlCharacter);
        }
        let value = strict_value(text)?;
        let record: Self =
            serde_json::from_value(value).map_err(|error| RecordError::Json(error.to_string()))?;
        if record.instant().is_none() {
            return Err(RecordError::Timestamp(record.timestamp));
        }
        Ok(record)
    }

    /// When it was written.
    pub fn instant(&self) -> Option<jiff::Timestamp> {
        self.timestamp.parse().ok()
    }
}

/// Parses JSON and refuses a key that occurs twice in one object, at any depth.
fn strict_value(text: &str) -> Result<Value, RecordError> {
    let duplicate = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Strict(&duplicate)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| match duplicate.take() {
        Some(key) => RecordError::DuplicateKey(key),
        None => RecordError::Json(error.to_string()),
    })
}

/// Builds a value; puts the first duplicate key, if any, into the cell.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = items.next_key::<String>()? {
            if object.contains_key(&key) {
                *self.0.borrow_mut() = Some(key);
                return Err(A::Error::custom("duplicate key"));
            }
            let value = items.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        match Record::parse(text.as_bytes()) {
            Ok(record) => format!("{record:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_record_says_why() {
        insta::assert_snapshot!(parse("{"), @"the line is not an entry: EOF while parsing an object at line 1 column 1");
        insta::assert_snapshot!(parse(""), @"the line is not an entry: EOF while parsing a value at line 1 column 0");
        insta::assert_snapshot!(parse("{\t}"), @"the line holds a control character");
        insta::assert_snapshot!(parse(r#"{"sequence":1,"sequence":1}"#), @"the key `sequence` occurs twice");
        insta::assert_snapshot!(parse(r#"{"details":{"x\u001b":1,"x\u001b":2}}"#), @r"the key `x\u{1b}` occurs twice");
        insta::assert_snapshot!(parse(r#"{"sequence":1}"#), @"the line is not an entry: missing field `timestamp`");
        insta::assert_snapshot!(
            parse(r#"{"sequence":1,"timestamp":"yesterday","previous":""}"#),
            @"the timestamp `yesterday` is not RFC 3339"
        );
        insta::assert_snapshot!(
            parse(r#"{"sequence":-1,"timestamp":"2026-01-01T00:00:00Z","previous":""}"#),
            @"the line is not an entry: invalid value: integer `-1`, expected u64"
        );
    }

    #[test]
    fn a_field_of_a_later_version_is_accepted() {
        let text = r#"{"sequence":1,"timestamp":"2026-01-01T00:00:00Z","previous":"","action":"x","colour":"red"}"#;
        assert_eq!(
            Record::parse(text.as_bytes()).unwrap().entry,
            Entry::new("x")
        );
    }

    #[test]
    fn deep_nesting_is_refused_without_exhausting_the_stack() {
        let text = "[".repeat(crate::MAX_LINE);
        insta::assert_snapshot!(parse(&text), @"the line is not an entry: recursion limit exceeded at line 1 column 128");
    }
}
