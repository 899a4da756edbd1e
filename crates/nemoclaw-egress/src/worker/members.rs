//! Reads a few members of a JSON object while it streams past, in bounded memory.
//!
//! ```text
//! Before --{--> Inside --the closing }--> Over
//!    `--anything else-------------------> Over
//! ```
//!
//! It finds members of the outermost object only, and takes well-formed JSON for granted: whoever
//! gets the bytes parses them, this only looks on.

/// The longest value kept, in bytes.
const MOST_VALUE_BYTES: usize = 4096;
/// The longest name kept, in bytes, with quotes and escapes.
const MOST_NAME_BYTES: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    Over,
}

#[derive(Debug, Default)]
struct Member {
    raw: Vec<u8>,
    times: u32,
    complete: bool,
}

/// A look-out for members by name.
#[derive(Debug)]
pub(crate) struct Members {
    names: &'static [&'static str],
    found: Vec<Member>,
    place: Place,
    depth: usize,
    in_string: bool,
    escaped: bool,
    in_name: bool,
    name: Vec<u8>,
    current: Option<usize>,
}

impl Members {
    pub(crate) fn new(names: &'static [&'static str]) -> Members {
        Members {
            names,
            found: names.iter().map(|_| Member::default()).collect(),
            place: Place::Before,
            depth: 0,
            in_string: false,
            escaped: false,
            in_name: true,
            name: Vec::new(),
            current: None,
        }
    }

    /// Looks at the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match self.place {
                Place::Over => return,
                Place::Before => match byte {
                    // White space, and the byte order mark that some clients send.
                    b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf => {}
                    b'{' => {
                        self.place = Place::Inside;
                        self.depth = 1;
                    }
                    _ => self.place = Place::Over,
                },
                Place::Inside => self.inside(*byte),
            }
        }
    }

    /// Whether nothing more can be found.
    pub(crate) fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    /// The JSON text of the value of the `index`th name: the last one that has ended.
    pub(crate) fn value(&self, index: usize) -> Option<&[u8]> {
        let member = self.found.get(index)?;
        member.complete.then_some(member.raw.as_slice())
    }

    /// The value of the `index`th name, when it is a text.
    pub(crate) fn text(&self, index: usize) -> Option<String> {
        serde_json::from_slice(self.value(index)?).ok()
    }

    /// Whether the `index`th name occurred more than once, which parsers disagree about.
    pub(crate) fn is_repeated(&self, index: usize) -> bool {
        self.found.get(index).is_some_and(|member| member.times > 1)
    }

    fn inside(&mut self, byte: u8) {
        if self.in_string {
            self.keep(byte);
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
                if self.depth == 1 && self.in_name {
                    self.name_ended();
                }
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.in_name {
                    self.name.clear();
                }
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.keep(byte);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.value_ended();
                    self.place = Place::Over;
                } else {
                    self.keep(byte);
                }
            }
            b':' if self.depth == 1 && self.in_name => self.in_name = false,
            b',' if self.depth == 1 => {
                self.value_ended();
                self.in_name = true;
            }
            _ => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.in_name {
            if self.in_string && self.name.len() <= MOST_NAME_BYTES {
                self.name.push(byte);
            }
        } else if let Some(member) = self.current.and_then(|index| self.found.get_mut(index))
            && member.raw.len() <= MOST_VALUE_BYTES
        {
            member.raw.push(byte);
        }
    }

    fn name_ended(&mut self) {
        let name: Option<String> = if self.name.len() > MOST_NAME_BYTES {
            None
        } else {
            // Decoded, so that an escaped spelling is the same name.
            serde_json::from_slice(&self.name).ok()
        };
        self.current = name.and_then(|name| self.names.iter().position(|known| *known == name));
        if let Some(member) = self.current.and_then(|index| self.found.get_mut(index)) {
            member.times = member.times.saturating_add(1);
            member.complete = false;
            member.raw.clear();
        }
    }

    fn value_ended(&mut self) {
        if let Some(member) = self.current.and_then(|index| self.found.get_mut(index)) {
            member.complete = member.raw.len() <= MOST_VALUE_BYTES;
        }
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, size: usize) -> Members {
        let mut members = Members::new(&["model", "usage"]);
        for piece in text.as_bytes().chunks(size) {
            members.push(piece);
        }
        members
    }

    #[test]
    fn a_member_is_found_however_the_text_is_cut() {
        let text = r#" {"messages":[{"model":"inner","x":"}\"],"}], "mod\u0065l" : "a\/b" ,"usage":{"n":[1,{"m":2}]}} "#;
        for size in 1..=text.len() {
            let members = read(text, size);
            assert_eq!(members.text(0).unwrap(), "a/b");
            assert_eq!(members.value(1).unwrap(), br#"{"n":[1,{"m":2}]}"#);
            assert!(members.is_over());
            assert!(!members.is_repeated(0));
        }
    }

    #[test]
    fn a_repeated_member_is_noticed_also_when_it_is_escaped() {
        let members = read(r#"{"model":"a","\u006dodel":"b"}"#, 7);
        assert!(members.is_repeated(0));
        assert_eq!(members.text(0).unwrap(), "b");
    }

    #[test]
    fn what_is_no_object_or_no_text_has_no_model() {
        for text in [
            "",
            "[{\"model\":\"a\"}]",
            "model",
            "{",
            "{\"model\":",
            "{\"model\":\"a",
        ] {
            assert_eq!(read(text, 3).text(0), None, "{text}");
        }
        assert_eq!(read("{\"model\":7}", 3).text(0), None);
        assert_eq!(read("\u{feff}{\"model\":\"a\"}", 2).text(0).unwrap(), "a");
    }

    #[test]
    fn an_endless_value_is_not_kept() {
        let text = format!(
            r#"{{"model":"{}","usage":1}}"#,
            "a".repeat(MOST_VALUE_BYTES)
        );
        let members = read(&text, 1000);
        assert_eq!(members.text(0), None);
        assert_eq!(members.value(1), Some(b"1".as_slice()));
    }

    #[test]
    fn brackets_without_end_neither_overflow_nor_hide_the_end() {
        let members = read(&format!("{{\"a\":{}", "[".repeat(100_000)), 4096);
        assert!(!members.is_over());
        let members = read(&"]}".repeat(1000), 3);
        assert!(members.is_over());
    }
}
