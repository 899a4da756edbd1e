//! Sizes, durations and parts of a CPU as people write them.

use std::time::Duration;

use crate::diagnostic::quote;
use crate::reader::Reader;
use crate::yaml::Node;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A size in bytes, of at least `least`.
pub(crate) fn size(reader: &mut Reader<'_>, node: &Node, what: &str, least: u64) -> Option<u64> {
    let scalar = reader.scalar(node, what)?;
    match size_of(&scalar.text) {
        Some(bytes) if bytes >= least => Some(bytes),
        Some(bytes) => {
            let message = format!("{what} is {bytes} bytes, and at least {least} are needed");
            reader.error(node.span, message);
            None
        }
        None => {
            reader.error_hint(
                node.span,
                format!("{what} must be a size, not {}", quote(&scalar.text)),
                "write a number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`, `TB`, as in `4GiB`",
            );
            None
        }
    }
}

/// A duration of at least a millisecond.
pub(crate) fn duration(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Duration> {
    let scalar = reader.scalar(node, what)?;
    let found = duration_of(&scalar.text);
    if found.is_none() {
        reader.error_hint(
            node.span,
            format!("{what} must be a duration, not {}", quote(&scalar.text)),
            "write numbers and units from `d`, `h`, `m`, `s`, `ms`, as in `8h` or `1h30m`",
        );
    }
    found
}

/// Thousandths of a CPU, from 1 to a million.
pub(crate) fn milli(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<u32> {
    let scalar = reader.scalar(node, what)?;
    let thousandths = decimal(&scalar.text, 1_000).filter(|n| (1..=1_000_000_000).contains(n));
    let found = thousandths
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n <= 1_000_000);
    if found.is_none() {
        reader.error_hint(
            node.span,
            format!(
                "{what} must be a number of CPUs, not {}",
                quote(&scalar.text)
            ),
            "write a number from 0.001 to 1000, as in `2` or `0.5`",
        );
    }
    found
}

fn size_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..)?;
    let number = digits.trim_end_matches(' ');
    if unit.is_empty() {
        return decimal(number, 1).filter(|_| !number.contains('.'));
    }
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    decimal(number, *factor)
}

fn duration_of(text: &str) -> Option<Duration> {
    let mut total = 0u64;
    let mut rest = text;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *factor >= smaller_than {
            return None;
        }
        smaller_than = *factor;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = after;
    }
    (total > 0).then(|| Duration::from_millis(total))
}

/// A number with at most nine digits after its point, times `factor`, when the product is whole or
/// is cut to a whole one.
fn decimal(text: &str, factor: u64) -> Option<u64> {
    let (whole, part) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, part)) => (whole, part),
        None => (text, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let mut sum = u128::from(whole.parse::<u64>().ok()?) * u128::from(factor);
    if !part.is_empty() {
        let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
        sum += u128::from(part.parse::<u64>().ok()?) * u128::from(factor) / scale;
    }
    // Kernel limits are signed.
    u64::try_from(sum)
        .ok()
        .filter(|n| i64::try_from(*n).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4GiB", 4 << 30),
            ("1.5 GiB", 3 << 29),
            ("10GB", 10_000_000_000),
            ("1kB", 1000),
            ("0.5KiB", 512),
        ] {
            assert_eq!(size_of(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "4G",
            "4gib",
            "-1",
            "1.",
            ".5GiB",
            "1e3",
            "4 GiB x",
            "1.5",
            "99999999TiB",
            "٣MiB",
        ] {
            assert_eq!(size_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_fall_from_the_large_unit_to_the_small() {
        assert_eq!(duration_of("8h"), Some(Duration::from_secs(28_800)));
        assert_eq!(duration_of("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration_of("250ms"), Some(Duration::from_millis(250)));
        for bad in [
            "",
            "8",
            "h",
            "0s",
            "30m1h",
            "1h1h",
            "1y",
            "-1s",
            "1 h",
            "99999999999999999999s",
        ] {
            assert_eq!(duration_of(bad), None, "{bad}");
        }
    }
}
