//! YAML text as a tree in which every key and every value knows its place.
//!
//! The tree is built from the parser's events, without recursion and within stated limits. Of YAML
//! it takes what a policy needs: one document of maps with text keys, lists and scalars. Anchors,
//! aliases, tags and directives are refused.

use granit_parser::{Event, Options, Parser, ScalarStyle};

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Source, Span, quote};

/// The largest policy text, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 16;

/// The most values in one policy, counting every key, scalar, list and map.
pub const MAX_NODES: usize = 131_072;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Something that was refused already and needs no second complaint.
    Refused,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Written without quotes, so that it may mean a number, a truth value or nothing.
    pub(crate) plain: bool,
}

impl Scalar {
    /// Whether this is YAML's null: nothing at all, `~` or `null`, without quotes.
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The truth value, by YAML's core schema.
    pub(crate) fn truth(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" if self.plain => Some(true),
            "false" | "False" | "FALSE" if self.plain => Some(false),
            _ => None,
        }
    }
}

/// The key of a map's entry.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) text: String,
    /// Complained of already; the text is empty.
    pub(crate) refused: bool,
}

/// The tree of `source`, or `None` when there is none; what is wrong goes to `diagnostics`.
pub(crate) fn parse(
    text: &str,
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Node> {
    Builder {
        source,
        diagnostics,
        open: Vec::new(),
        root: None,
        nodes: 0,
        documents: 0,
    }
    .build(text)
}

struct Builder<'a> {
    source: &'a Source,
    diagnostics: &'a mut Vec<Diagnostic>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
}

/// A list or map whose end has not come yet.
struct Open {
    span: Span,
    children: Children,
}

enum Children {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        key: Option<Key>,
    },
}

impl Builder<'_> {
    fn build(mut self, text: &str) -> Option<Node> {
        let mut options = Options::default();
        options.strict_indentation = true;
        options.disallow_directives = true;
        options.emit_unresolved_aliases = true;
        options.set_emit_comments(false);
        // Beyond our own limit, so that ours is the one to be told wherever it can.
        options.flow_nesting_limit = 2 * MAX_DEPTH;
        options.block_nesting_limit = 2 * MAX_DEPTH;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    let span = Span {
                        start: at,
                        end: at + 1,
                    };
                    let info = error.info();
                    if info.contains("recursion limit") {
                        self.refuse_depth(span);
                    } else {
                        let message = format!("this is not YAML: {info}");
                        self.refuse(span, message, remedy(&info));
                    }
                    return None;
                }
            };
            let range = span.byte_range().unwrap_or(0..0);
            let span = Span {
                start: range.start,
                end: range.end,
            };
            // More than are shown need not be found.
            if !self.take(event, span) || self.diagnostics.len() > MAX_DIAGNOSTICS {
                return None;
            }
        }
        self.root
    }

    /// Adds what an event tells; `false` when nothing more should be read.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        if event.is_node() {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                self.refuse(
                    span,
                    format!("the policy holds more than {MAX_NODES} values"),
                    "split it into policies for several agents",
                );
                return false;
            }
        }
        if event.anchor_id().is_some_and(|id| id != 0) {
            self.refuse(
                span,
                "anchors are not part of the policy language".to_owned(),
                "write the value out at each place",
            );
        }
        if event.tag().is_some() {
            self.refuse(
                span,
                "tags are not part of the policy language".to_owned(),
                "remove the word that begins with `!`, or quote it",
            );
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.refuse(
                        span,
                        "one file holds one policy, and a second document begins here".to_owned(),
                        "move what follows into a file of its own",
                    );
                    return false;
                }
            }
            Event::Scalar(text, style, _, _) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain,
                };
                self.add(Node {
                    span,
                    kind: Kind::Scalar(scalar),
                });
            }
            Event::SequenceStart(..) => return self.begin(span, Children::List(Vec::new())),
            Event::MappingStart(..) => {
                return self.begin(
                    span,
                    Children::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                );
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(_) => self.refuse_alias(span),
            Event::UnresolvedAlias(_) => self.refuse_alias(span),
            _ => {}
        }
        true
    }

    fn refuse_alias(&mut self, span: Span) {
        self.refuse(
            span,
            "aliases are not part of the policy language".to_owned(),
            "quote text that begins with `*`, as in `\"*.example.com\"`",
        );
        self.add(Node {
            span,
            kind: Kind::Refused,
        });
    }

    fn refuse_depth(&mut self, span: Span) {
        self.refuse(
            span,
            format!("lists and maps are nested more than {MAX_DEPTH} deep"),
            "no part of a policy needs this depth",
        );
    }

    fn begin(&mut self, span: Span, children: Children) -> bool {
        if self.open.len() >= MAX_DEPTH {
            self.refuse_depth(span);
            return false;
        }
        self.open.push(Open { span, children });
        true
    }

    fn end(&mut self, span: Span) {
        let Some(open) = self.open.pop() else { return };
        let whole = Span {
            start: open.span.start,
            end: span.end.max(open.span.end),
        };
        let kind = match open.children {
            Children::List(items) => Kind::List(items),
            Children::Map { entries, .. } => Kind::Map(entries),
        };
        self.add(Node { span: whole, kind });
    }

    fn add(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.children {
            Children::List(items) => items.push(node),
            Children::Map { entries, key } => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let span = node.span;
                    let text = match node.kind {
                        Kind::Scalar(scalar) => Some(scalar.text),
                        Kind::Refused => None,
                        Kind::List(_) | Kind::Map(_) => {
                            let place = Some(self.source.place(span));
                            let message = "a key must be a word, not a list or a map";
                            self.diagnostics.push(Diagnostic::error(place, message));
                            None
                        }
                    };
                    // A refused key keeps its entry, under a name that nothing asks for.
                    *key = Some(Key {
                        span,
                        refused: text.is_none(),
                        text: text.unwrap_or_default(),
                    });
                }
            },
        }
    }

    fn refuse(&mut self, span: Span, message: String, hint: &str) {
        let place = Some(self.source.place(span));
        self.diagnostics
            .push(Diagnostic::error(place, message).hint(hint));
    }
}

/// What to do about the most usual slips, by the words of the parser's message.
fn remedy(info: &str) -> &'static str {
    const REMEDIES: [(&str, &str); 3] = [
        (
            "unclosed",
            "close it on the same line, or look for a quote too many",
        ),
        ("directive", "remove the line that begins with `%`"),
        ("tab", "indent with spaces"),
    ];
    REMEDIES
        .into_iter()
        .find(|(word, _)| info.contains(word))
        .map_or(
            "quote text that holds `: `, ` #` or begins with one of `*&!|>@%`, and indent with spaces",
            |(_, hint)| hint,
        )
}

/// Complains of every key that stands twice in one map, anywhere in the tree.
pub(crate) fn refuse_duplicates(root: &Node, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let mut pending = vec![root];
    while let Some(node) = pending.pop() {
        match &node.kind {
            Kind::List(items) => pending.extend(items),
            Kind::Map(entries) => {
                let mut seen = std::collections::BTreeMap::new();
                for (key, value) in entries {
                    pending.push(value);
                    let first = *seen.entry(key.text.as_str()).or_insert(key.span);
                    if first != key.span && !key.text.is_empty() {
                        let line = source.place(first).line;
                        let message = format!("{} stands twice in this map", quote(&key.text));
                        diagnostics.push(
                            Diagnostic::error(Some(source.place(key.span)), message)
                                .hint(format!("the first is on line {line}; keep one of them")),
                        );
                    }
                }
            }
            Kind::Scalar(_) | Kind::Refused => {}
        }
    }
}
