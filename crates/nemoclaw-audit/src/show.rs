//! Text that an attacker chose, made harmless for a terminal.

use std::fmt::{self, Write};

/// Displays text with every character that could command a terminal or deceive a reader written as `\u{…}`.
///
/// That is: control characters of both sets (escape, newline, the 8-bit CSI), directional overrides, and invisible
/// format characters (Unicode TR 36, section 3).
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_harmless(character) {
                f.write_char(character)?;
            } else {
                write!(f, "{}", character.escape_unicode())?;
            }
        }
        Ok(())
    }
}

/// Escapes, inside one line of JSON, the characters that JSON allows in strings but a terminal should not get.
///
/// The text must hold no control character below U+0020, as no JSON line written by this crate does: then every
/// character that is escaped here stands inside a string, and the value stays the same.
pub fn escape_json(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    for character in line.chars() {
        if is_harmless(character) {
            safe.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_escape_sequence_and_no_second_line() {
        let hostile = "/w/\x1b]0;owned\x07\n\u{9b}31m\u{202e}cod.exe\u{7f}ä";
        insta::assert_snapshot!(
            Shown(hostile),
            @r"/w/\u{1b}]0;owned\u{7}\u{a}\u{9b}31m\u{202e}cod.exe\u{7f}ä"
        );
    }

    #[test]
    fn escaped_json_keeps_its_value() {
        let value = serde_json::json!({"a": "\u{9b}\u{202e}\u{7f}\\\u{e0041}\"ä"});
        let safe = escape_json(&value.to_string());
        assert!(safe.chars().all(is_harmless), "{safe}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&safe).unwrap(),
            value
        );
    }
}
