//! What is wrong with a policy, told as a good compiler would: place, excerpt, caret and hint.

use std::error::Error;
use std::fmt;

use serde::Serialize;

/// The most characters of a source line that an excerpt shows.
const EXCERPT_CHARS: usize = 120;

/// The most characters of the user's own words that a message repeats.
const QUOTE_CHARS: usize = 80;

/// The most mistakes, and the most doubts, that one policy is told of.
pub(crate) const MAX_DIAGNOSTICS: usize = 1_000;

/// How much a diagnostic weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is used, but probably does not say what was meant.
    Warning,
    /// The policy is not used.
    Error,
}

/// Where in the text something stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters of the line are meant, at least 1.
    pub length: usize,
    /// The line itself (a window of it when it is long), with what a terminal would obey replaced
    /// by `\u{fffd}`.
    pub excerpt: String,
    /// The column within the excerpt, counted from 1; differs from `column` only for long lines.
    pub excerpt_column: usize,
}

/// One thing that is wrong, or doubtful, with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where; `None` when no line of the text is to blame.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn error(place: Option<Place>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place,
            hint: None,
        }
    }

    pub(crate) fn warning(place: Option<Place>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            message: message.into(),
            place,
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The diagnostic as text of several lines, naming `file` as the place.
    #[must_use]
    pub fn render(&self, file: &str) -> String {
        Rendered {
            diagnostic: self,
            file: Some(file),
        }
        .to_string()
    }

    fn order(&self) -> (usize, usize) {
        self.place
            .as_ref()
            .map_or((usize::MAX, 0), |place| (place.line, place.column))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Rendered {
            diagnostic: self,
            file: None,
        }
        .fmt(f)
    }
}

/// Everything that is wrong with a policy, in the order of the text. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All diagnostics as text, naming `file` as the place of each.
    #[must_use]
    pub fn render(&self, file: &str) -> String {
        render_all(&self.0, Some(file))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&render_all(&self.0, None))
    }
}

impl Error for Diagnostics {}

fn render_all(diagnostics: &[Diagnostic], file: Option<&str>) -> String {
    let all: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| Rendered { diagnostic, file }.to_string())
        .collect();
    all.join("\n")
}

pub(crate) fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(Diagnostic::order);
}

struct Rendered<'a> {
    diagnostic: &'a Diagnostic,
    file: Option<&'a str>,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", self.diagnostic.message)?;
        let file = self.file.map(visible);
        let Some(place) = &self.diagnostic.place else {
            if let Some(file) = file {
                writeln!(f, " --> {file}")?;
            }
            if let Some(hint) = &self.diagnostic.hint {
                writeln!(f, " = hint: {hint}")?;
            }
            return Ok(());
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        match file {
            Some(file) => writeln!(f, "{margin}--> {file}:{number}:{}", place.column)?,
            None => writeln!(f, "{margin}--> line {number}, column {}", place.column)?,
        }
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", place.excerpt)?;
        let before = " ".repeat(place.excerpt_column.saturating_sub(1));
        writeln!(f, "{margin} | {before}{}", "^".repeat(place.length))?;
        if let Some(hint) = &self.diagnostic.hint {
            writeln!(f, "{margin} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// The text of a policy, with the start of each line known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    text: String,
    lines: Vec<usize>,
    /// How many characters begin before each block of [`BLOCK`] bytes, so that finding a place in
    /// a line of a million characters does not count them all.
    blocks: Vec<usize>,
}

const BLOCK: usize = 256;

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let mut lines = vec![0];
        let bytes = text.as_bytes();
        for (index, byte) in bytes.iter().enumerate() {
            let ends = *byte == b'\n' || (*byte == b'\r' && bytes.get(index + 1) != Some(&b'\n'));
            if ends {
                lines.push(index + 1);
            }
        }
        let mut blocks = vec![0];
        let mut count = 0;
        for block in bytes.chunks(BLOCK) {
            count += beginnings(block);
            blocks.push(count);
        }
        Self {
            text: text.to_owned(),
            lines,
            blocks,
        }
    }

    /// How many characters begin before the byte `index`.
    fn characters_before(&self, index: usize) -> usize {
        let block = index / BLOCK;
        let rest = self.text.as_bytes().get(block * BLOCK..index);
        self.blocks.get(block).copied().unwrap_or(0) + beginnings(rest.unwrap_or_default())
    }

    /// The place of the bytes `span`, on the line where it starts.
    pub(crate) fn place(&self, span: Span) -> Place {
        let start = floor_boundary(&self.text, span.start);
        let index = self
            .lines
            .partition_point(|first| *first <= start)
            .saturating_sub(1);
        let first = self.lines.get(index).copied().unwrap_or(0);
        let next = self
            .lines
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        let line = self
            .text
            .get(first..next)
            .unwrap_or("")
            .trim_end_matches(['\n', '\r']);
        let within = start.saturating_sub(first).min(line.len());
        let before = self.characters_before(first + within) - self.characters_before(first);
        // No more is shown than an excerpt holds, however much is meant.
        let most = span.start.saturating_add(EXCERPT_CHARS * 4);
        let end = floor_boundary(&self.text, span.end.min(most)).max(start);
        let stop = end.saturating_sub(first).min(line.len());
        let marked = line.get(within..stop).unwrap_or("").trim_end();
        let marked = marked.chars().count();
        let fits = before + marked.min(EXCERPT_CHARS / 2) < EXCERPT_CHARS;
        let shown_before = if fits { before } else { EXCERPT_CHARS / 4 };
        let lead = line.get(..within).unwrap_or("");
        let from = match shown_before.checked_sub(1) {
            None => within,
            Some(last) => lead.char_indices().rev().nth(last).map_or(0, |(at, _)| at),
        };
        let excerpt: String = line
            .get(from..)
            .unwrap_or("")
            .chars()
            .take(EXCERPT_CHARS)
            .map(visible_char)
            .collect();
        Place {
            line: index + 1,
            column: before + 1,
            length: marked.min(EXCERPT_CHARS - shown_before).max(1),
            excerpt,
            excerpt_column: shown_before + 1,
        }
    }
}

/// How many characters begin in these bytes of UTF-8.
fn beginnings(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// A range of bytes in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

fn floor_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// The user's own words, fit to be repeated in a message: in backticks, of bounded length, and
/// with nothing in them that a terminal would obey.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTE_CHARS).map(visible_char).collect();
    if text.chars().nth(QUOTE_CHARS).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The text with what a terminal would obey replaced.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(visible_char).collect()
}

fn visible_char(character: char) -> char {
    match character {
        '\t' => ' ',
        // Marks that reorder or hide text, so that what is shown is what is meant.
        '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => '\u{fffd}',
        _ if character.is_control() => '\u{fffd}',
        _ => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_not_bytes() {
        let source = Source::new("näme: x\r\nversion: 2\n");
        let place = source.place(Span { start: 7, end: 8 });
        assert_eq!((place.line, place.column, place.length), (1, 7, 1));
        let place = source.place(Span { start: 19, end: 20 });
        assert_eq!(
            (place.line, place.column, place.excerpt.as_str()),
            (2, 10, "version: 2")
        );
    }

    #[test]
    fn a_long_line_is_shown_through_a_window() {
        let text = format!("{}HERE{}", "x".repeat(5_000), "y".repeat(5_000));
        let place = Source::new(&text).place(Span {
            start: 5_000,
            end: 5_004,
        });
        assert_eq!(place.column, 5_001);
        assert_eq!(place.excerpt.chars().count(), EXCERPT_CHARS);
        let shown: String = place
            .excerpt
            .chars()
            .skip(place.excerpt_column - 1)
            .take(place.length)
            .collect();
        assert_eq!(shown, "HERE");
    }

    #[test]
    fn columns_are_counted_alike_in_lines_of_any_length() {
        let text = "ä€x".repeat(1_000);
        let source = Source::new(&format!("a\n{text}\nb"));
        let mut bytes = 2;
        for (index, character) in text.chars().enumerate() {
            let end = bytes + character.len_utf8();
            let place = source.place(Span { start: bytes, end });
            assert_eq!((place.line, place.column, place.length), (2, index + 1, 1));
            let shown = place.excerpt.chars().nth(place.excerpt_column - 1);
            assert_eq!(shown, Some(character));
            bytes = end;
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_repeated() {
        assert_eq!(quote("a\u{1b}[2Jb\u{202e}c"), "`a\u{fffd}[2Jb\u{fffd}c`");
    }

    #[test]
    fn any_span_has_a_place() {
        let source = Source::new("ä\n");
        for start in (0..6).chain([usize::MAX]) {
            for end in (0..6).chain([usize::MAX]) {
                assert!(source.place(Span { start, end }).length >= 1);
            }
        }
    }
}
