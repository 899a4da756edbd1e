//! One entry to the bytes of its line.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::entry::Entry;
use crate::show::escape_json;

/// What the first entry holds as the digest of the one before.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The longest string, in bytes, that is kept whole: a path of `PATH_MAX` fits.
const MAX_STRING: usize = 4096;

/// The longest details, in bytes of JSON, that are kept whole.
const MAX_DETAILS: usize = 64 * 1024;

/// How deep details may nest. An agent chooses some of them, and a line that nests deeper than 128 levels, which is
/// what serde_json reads, would be in the log and be no entry.
const MAX_DEPTH: usize = 64;

#[derive(Serialize)]
struct Chained<'a> {
    sequence: u64,
    timestamp: &'a str,
    previous: &'a str,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// The line of one entry, without its newline.
pub(crate) fn line(
    sequence: u64,
    timestamp: &str,
    previous: &str,
    entry: &Entry,
) -> Result<String, serde_json::Error> {
    let shortened = shorten(entry);
    let chained = Chained {
        sequence,
        timestamp,
        previous,
        entry: shortened.as_ref().unwrap_or(entry),
    };
    Ok(escape_json(&serde_json::to_string(&chained)?))
}

/// The SHA-256 digest of some bytes in lower-case hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The entry with what is too long replaced, or nothing where all fits.
///
/// Twelve strings of 4 KiB, each byte escaped to six, and the details stay well below [`crate::MAX_LINE`].
fn shorten(entry: &Entry) -> Option<Entry> {
    let details = entry.details.as_ref().and_then(short_details);
    if strings(&mut entry.clone()).all(|text| text.len() <= MAX_STRING) && details.is_none() {
        return None;
    }
    let mut short = entry.clone();
    for text in strings(&mut short) {
        if text.len() > MAX_STRING {
            let end = (0..=MAX_STRING)
                .rev()
                .find(|end| text.is_char_boundary(*end));
            let note = format!(
                "… ({} bytes, sha256 {})",
                text.len(),
                digest(text.as_bytes())
            );
            text.truncate(end.unwrap_or_default());
            text.push_str(&note);
        }
    }
    if details.is_some() {
        short.details = details;
    }
    Some(short)
}

/// A note in the place of details that are too long, or that nest too deep to be read again.
fn short_details(details: &Map<String, Value>) -> Option<Map<String, Value>> {
    let deep = details.values().any(|value| is_deeper(value, MAX_DEPTH));
    let text = escape_json(&serde_json::to_string(details).ok()?);
    if text.len() <= MAX_DETAILS && !deep {
        return None;
    }
    let note = json!({"bytes": text.len(), "sha256": digest(text.as_bytes())});
    Some(Map::from_iter([("shortened".to_owned(), note)]))
}

/// Whether a value nests deeper than `levels`.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let deeper = |inner| match levels.checked_sub(1) {
        Some(levels) => is_deeper(inner, levels),
        None => true,
    };
    match value {
        Value::Array(items) => items.iter().any(deeper),
        Value::Object(fields) => fields.values().any(deeper),
        _ => false,
    }
}

fn strings(entry: &mut Entry) -> impl Iterator<Item = &mut String> {
    let Entry {
        run_id,
        agent_id,
        user_on_behalf_of,
        pid: _,
        program,
        action,
        resource,
        policy_decision,
        rule,
        enforced_by,
        reason,
        privacy_classification,
        model_used,
        execution_time_ms: _,
        cost_tokens: _,
        details: _,
    } = entry;
    let decision = match policy_decision {
        Some(crate::entry::Decision::Other(word)) => Some(word),
        _ => None,
    };
    [
        run_id.as_mut(),
        agent_id.as_mut(),
        user_on_behalf_of.as_mut(),
        program.as_mut(),
        Some(action),
        resource.as_mut(),
        decision,
        rule.as_mut(),
        enforced_by.as_mut(),
        reason.as_mut(),
        privacy_classification.as_mut(),
        model_used.as_mut(),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decision, MAX_LINE};

    #[test]
    fn every_field_is_written_in_a_fixed_order_and_absent_ones_as_null() {
        let entry = Entry {
            resource: Some("/etc/shadow".to_owned()),
            policy_decision: Some(Decision::Deny),
            ..Entry::new("read")
        };
        let text = line(1, "2026-01-02T03:04:05.000006Z", GENESIS, &entry).unwrap();
        insta::assert_snapshot!(text, @r#"{"sequence":1,"timestamp":"2026-01-02T03:04:05.000006Z","previous":"0000000000000000000000000000000000000000000000000000000000000000","run_id":null,"agent_id":null,"user_on_behalf_of":null,"pid":null,"program":null,"action":"read","resource":"/etc/shadow","policy_decision":"deny","rule":null,"enforced_by":null,"reason":null,"privacy_classification":null,"model_used":null,"execution_time_ms":null,"cost_tokens":null,"details":null}"#);
    }

    #[test]
    fn details_that_nest_too_deep_to_be_read_again_are_replaced() {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        for (levels, kept) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false), (127, false)] {
            let entry = Entry::new("x").with_detail("body", nested(levels));
            let text = line(1, "2026-01-02T03:04:05.000006Z", GENESIS, &entry).unwrap();
            let read = crate::Record::parse(text.as_bytes()).unwrap().entry;
            assert_eq!(read == entry, kept, "{levels}");
            assert_eq!(text.contains("shortened"), !kept, "{levels}");
        }
    }

    #[test]
    fn the_worst_entry_fits_in_a_line_and_says_what_was_shortened() {
        let worst = Some("\u{1}".repeat(100_000));
        let mut entry = Entry {
            run_id: worst.clone(),
            agent_id: worst.clone(),
            user_on_behalf_of: worst.clone(),
            program: worst.clone(),
            resource: worst.clone(),
            policy_decision: worst.clone().map(Decision::Other),
            rule: worst.clone(),
            enforced_by: worst.clone(),
            reason: worst.clone(),
            privacy_classification: worst.clone(),
            model_used: worst.clone(),
            ..Entry::new("\u{202e}".repeat(50_000))
        };
        entry = entry.with_detail("body", "\u{1}".repeat(1_000_000));
        let text = line(1, "2026-01-02T03:04:05.000006Z", GENESIS, &entry).unwrap();
        assert!(text.len() < MAX_LINE, "{}", text.len());
        assert!(text.contains("(100000 bytes, sha256 "), "{text}");
        assert!(text.contains(r#""shortened":{"bytes":6000011"#), "{text}");
    }
}
