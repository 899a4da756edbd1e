//! Reads the tree of a document section by section and collects every complaint.

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Place, Source, Span, quote};
use crate::words::nearest;
use crate::yaml::{Kind, Node, Scalar};

/// What a message says of a word that a later version will know.
pub(crate) const NOT_YET: &str = "is not supported yet by this version";

/// The text being read and what was found wrong with it so far.
pub(crate) struct Reader<'s> {
    source: &'s Source,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// The entries of a map whose keys were all checked.
pub(crate) struct Fields<'n> {
    entries: Vec<(&'static str, &'n Node)>,
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, word: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, node)| *node)
    }
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        Self {
            source,
            diagnostics: Vec::new(),
        }
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        self.source.place(span)
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.complain(span, message.into(), None);
    }

    pub(crate) fn error_hint(
        &mut self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.complain(span, message.into(), Some(hint.into()));
    }

    /// More than are shown need not be kept.
    fn complain(&mut self, span: Span, message: String, hint: Option<String>) {
        if self.is_full() {
            return;
        }
        let mut error = Diagnostic::error(Some(self.source.place(span)), message);
        error.hint = hint;
        self.diagnostics.push(error);
    }

    fn is_full(&self) -> bool {
        self.diagnostics.len() > MAX_DIAGNOSTICS
    }

    /// Complains of a word that nobody knows, naming the nearest one that is known here.
    pub(crate) fn unknown(&mut self, span: Span, what: &str, word: &str, known: &[&str]) {
        let hint = self.meant(word, known);
        self.error_hint(span, format!("unknown {what} {}", quote(word)), hint);
    }

    /// The word that was probably meant, or all that are known. Beyond what is shown nobody reads
    /// it, and finding it takes time.
    fn meant(&self, word: &str, known: &[&str]) -> String {
        if self.is_full() {
            return String::new();
        }
        match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", listed(known)),
        }
    }

    /// The map in `node`. Keys outside `known` are refused; those in `later` as words of a later
    /// version. `what` names the map in messages.
    pub(crate) fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&'static str],
        later: &[&str],
    ) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_kind(
                node,
                what,
                "a map",
                &format!("known inside: {}", listed(known)),
            );
            return None;
        };
        let mut fields = Fields {
            entries: Vec::new(),
        };
        for (key, value) in entries {
            if let Some(word) = known.iter().find(|word| **word == key.text) {
                if fields.get(word).is_none() {
                    fields.entries.push((word, value));
                }
            } else if later.contains(&key.text.as_str()) {
                self.not_yet(key.span, &key.text);
            } else if !key.text.is_empty() {
                let all: Vec<&str> = known.iter().chain(later).copied().collect();
                self.unknown(key.span, &format!("word in {what}:"), &key.text, &all);
            } else if !key.refused {
                self.error(key.span, format!("an empty key stands in {what}"));
            }
        }
        Some(fields)
    }

    pub(crate) fn not_yet(&mut self, span: Span, word: &str) {
        self.error_hint(
            span,
            format!("{} {NOT_YET}", quote(word)),
            "remove it; nothing in a policy is ignored",
        );
    }

    /// The scalar in `node`, which must be there and not be null.
    pub(crate) fn scalar<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n Scalar> {
        match &node.kind {
            Kind::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            _ => {
                self.wrong_kind(node, what, "a single value", "write it after the colon");
                None
            }
        }
    }

    /// Text that is not empty and holds no control characters.
    pub(crate) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let scalar = self.scalar(node, what)?;
        if scalar.text.is_empty() {
            self.error(node.span, format!("{what} is empty"));
            return None;
        }
        if scalar.text.chars().any(char::is_control) {
            self.error(node.span, format!("{what} holds a control character"));
            return None;
        }
        Some(&scalar.text)
    }

    pub(crate) fn truth(&mut self, node: &Node, what: &str) -> Option<bool> {
        let scalar = self.scalar(node, what)?;
        let truth = scalar.truth();
        if truth.is_none() {
            let message = format!("{what} must be `true` or `false`, not {}", written(scalar));
            if scalar.plain {
                self.error(node.span, message);
            } else {
                self.error_hint(node.span, message, "write the word without quotes");
            }
        }
        truth
    }

    /// A whole number of at least `least`, written with digits only (`_` may part them).
    pub(crate) fn number(&mut self, node: &Node, what: &str, least: u64) -> Option<u64> {
        let scalar = self.scalar(node, what)?;
        match scalar.text.replace('_', "").parse::<u64>() {
            Ok(number)
                if number >= least && scalar.text.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                Some(number)
            }
            _ => {
                let message = format!(
                    "{what} must be a whole number of at least {least}, not {}",
                    quote(&scalar.text)
                );
                self.error(node.span, message);
                None
            }
        }
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.kind {
            Kind::List(items) => Some(items),
            _ => {
                self.wrong_kind(node, what, "a list", "write it as `[\"…\", \"…\"]`");
                None
            }
        }
    }

    /// One of the words in `choices`. Those in `later` are refused as not supported yet.
    pub(crate) fn choice(
        &mut self,
        node: &Node,
        what: &str,
        choices: &[&'static str],
        later: &[&str],
    ) -> Option<&'static str> {
        let scalar = self.scalar(node, what)?;
        let chosen = choices
            .iter()
            .find(|choice| **choice == scalar.text)
            .copied();
        if chosen.is_none() {
            if later.contains(&scalar.text.as_str()) {
                self.not_yet(node.span, &scalar.text);
            } else {
                let message = format!("{what} cannot be {}", quote(&scalar.text));
                let hint = self.meant(&scalar.text, choices);
                self.error_hint(node.span, message, hint);
            }
        }
        chosen
    }

    pub(crate) fn wrong_kind(&mut self, node: &Node, what: &str, wanted: &str, hint: &str) {
        let found = match &node.kind {
            // It was complained of already.
            Kind::Refused => return,
            Kind::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Kind::Scalar(scalar) => written(scalar),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        };
        self.error_hint(
            node.span,
            format!("{what} must be {wanted}, not {found}"),
            hint,
        );
    }
}

/// The scalar as it was written: a `"true"` in quotes is not a `true`.
fn written(scalar: &Scalar) -> String {
    if scalar.plain {
        quote(&scalar.text)
    } else {
        quote(&format!("\"{}\"", scalar.text))
    }
}

/// `a`, `b` and `c`.
pub(crate) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
