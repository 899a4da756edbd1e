//! Points in time as a person types them.

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// Why a text names no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a time: write `2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago: `90s`, `15m`, `2h`, `7d`",
    crate::Shown(.0)
)]
pub struct InstantError(String);

/// Reads an RFC 3339 time, a date (its first moment in UTC), or an age such as `15m` counted back from `now`.
///
/// # Errors
///
/// The text is none of these, or names a time out of range.
pub fn parse_instant(text: &str, now: Timestamp) -> Result<Timestamp, InstantError> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    date(text)
        .or_else(|| age(text).and_then(|age| now.checked_sub(age).ok()))
        .ok_or_else(|| InstantError(text.to_owned()))
}

fn date(text: &str) -> Option<Timestamp> {
    if text.len() != "2026-01-31".len() {
        return None;
    }
    let date: Date = text.parse().ok()?;
    Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()
}

fn age(text: &str) -> Option<SignedDuration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: i64 = digits.parse().ok()?;
    Some(SignedDuration::from_secs(count.checked_mul(unit)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        let now = "2026-03-04T05:06:07Z".parse().unwrap();
        match parse_instant(text, now) {
            Ok(instant) => instant.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn times_dates_and_ages_are_understood() {
        assert_eq!(parse("2026-01-31T12:00:00+01:00"), "2026-01-31T11:00:00Z");
        assert_eq!(parse("2026-01-31"), "2026-01-31T00:00:00Z");
        assert_eq!(parse("90s"), "2026-03-04T05:04:37Z");
        assert_eq!(parse("7d"), "2026-02-25T05:06:07Z");
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        insta::assert_snapshot!(
            parse("soon\u{1b}"),
            @r"`soon\u{1b}` is not a time: write `2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago: `90s`, `15m`, `2h`, `7d`"
        );
        for text in [
            "",
            "d",
            "-1d",
            "99999999999999999999d",
            "9223372036854775807s",
            "1ü",
            "1 d",
        ] {
            assert!(parse(text).contains("is not a time"), "{text}");
        }
    }
}
