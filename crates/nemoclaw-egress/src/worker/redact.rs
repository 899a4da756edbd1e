//! Takes the real key out of what an upstream sends back, across the borders of its pieces, without
//! holding back more than a beginning of the key.

use zeroize::Zeroizing;

/// Shorter keys (`none`, `EMPTY`, `sk-local`) are stand-ins that also occur as ordinary words.
const LEAST_KEY_BYTES: usize = 16;

/// Whether a key is long enough to be told from ordinary text.
pub(crate) fn is_distinct(key: &str) -> bool {
    key.len() >= LEAST_KEY_BYTES
}

/// A search for one key (Knuth, Morris, Pratt), that overwrites what it finds with asterisks.
pub(crate) struct Redactor {
    // INVARIANT: not empty.
    key: Zeroizing<Vec<u8>>,
    // INVARIANT: as long as `key`; `borders[i] <= i`.
    borders: Vec<usize>,
    // INVARIANT: less than the key's length.
    matched: usize,
}

impl Redactor {
    /// `None` when the key is too short to be told from ordinary text.
    pub(crate) fn new(key: &str) -> Option<Redactor> {
        if !is_distinct(key) {
            return None;
        }
        let key = Zeroizing::new(key.as_bytes().to_vec());
        let mut borders = vec![0; key.len()];
        let mut border = 0;
        for at in 1..key.len() {
            while border > 0 && key.get(at) != key.get(border) {
                border = borders.get(border - 1).copied().unwrap_or(0);
            }
            if key.get(at) == key.get(border) {
                border += 1;
            }
            if let Some(slot) = borders.get_mut(at) {
                *slot = border;
            }
        }
        Some(Redactor {
            key,
            borders,
            matched: 0,
        })
    }

    /// What may be handed on after `bytes` arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + self.matched);
        for byte in bytes {
            while self.matched > 0 && self.key.get(self.matched) != Some(byte) {
                let border = self.borders.get(self.matched - 1).copied().unwrap_or(0);
                out.extend_from_slice(self.key.get(..self.matched - border).unwrap_or_default());
                self.matched = border;
            }
            if self.key.get(self.matched) == Some(byte) {
                self.matched += 1;
            } else {
                out.push(*byte);
            }
            if self.matched == self.key.len() {
                out.resize(out.len() + self.matched, b'*');
                self.matched = 0;
            }
        }
        out
    }

    /// How many bytes are held back.
    pub(crate) fn held(&self) -> usize {
        self.matched
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let rest = self.key.get(..self.matched).unwrap_or_default().to_vec();
        self.matched = 0;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(key: &str, text: &str, size: usize) -> String {
        let mut redactor = Redactor::new(key).unwrap();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend(redactor.push(piece));
        }
        out.extend(redactor.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_key_is_overwritten_however_it_is_cut() {
        let key = "sk-sk-sk-0123456789";
        let stars = "*".repeat(key.len());
        for (text, expected) in [
            (format!("a{key}b"), format!("a{stars}b")),
            (format!("{key}{key}"), format!("{stars}{stars}")),
            (format!("sk-{key}"), format!("sk-{stars}")),
            (format!("sk-sk-{key}"), format!("sk-sk-{stars}")),
            (
                "sk-sk-sk-012345678".to_owned(),
                "sk-sk-sk-012345678".to_owned(),
            ),
            ("sk-sk-sk-sk-0".to_owned(), "sk-sk-sk-sk-0".to_owned()),
        ] {
            for size in 1..=text.len() {
                assert_eq!(redact(key, &text, size), expected, "{text} by {size}");
            }
        }
    }

    #[test]
    fn what_cannot_become_the_key_is_handed_on_at_once() {
        let mut redactor = Redactor::new("sk-0123456789abcdef").unwrap();
        assert_eq!(redactor.push(b"data: {\"s\"}\n\n"), b"data: {\"s\"}\n\n");
        assert_eq!(redactor.push(b"tail sk-"), b"tail ");
        assert_eq!(redactor.held(), 3);
        assert_eq!(redactor.push(b"x"), b"sk-x");
        assert_eq!(redactor.held(), 0);
    }

    #[test]
    fn a_stand_in_key_is_not_searched_for() {
        assert!(Redactor::new("EMPTY").is_none());
    }
}
