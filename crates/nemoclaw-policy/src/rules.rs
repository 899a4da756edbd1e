//! Reads the three lists.

use nemoclaw_common::{MAX_RULES, RuleId};

use crate::diagnostic::{Span, quote};
use crate::host::{HostMatch, HostPattern, is_local_name};
use crate::pattern::{Head, Template, Variables};
use crate::program::ProgramTemplate;
use crate::reader::Reader;
use crate::rule::{ActionWord, List, Rule, Subject};
use crate::yaml::{Kind, Node};

/// Keys of a map form that a later version knows.
const LATER: [&str; 17] = [
    "expires",
    "when",
    "host",
    "port",
    "protocol",
    "methods",
    "budget",
    "once",
    "for",
    "session",
    "always",
    "timeout",
    "on_timeout",
    "approvers",
    "roles",
    "requests",
    "arguments",
];

const MAX_REASON_BYTES: usize = 1_000;

/// The rules of all lists, numbered in the order of the text.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    lists: [(List, Option<&Node>); 3],
    variables: Variables<'_>,
) -> Vec<Rule> {
    let mut lists: Vec<(List, &Node)> = lists
        .into_iter()
        .filter_map(|(list, node)| Some((list, node?)))
        .collect();
    lists.sort_by_key(|(_, node)| node.span.start);
    let mut reading = Reading {
        reader,
        variables,
        rules: Vec::new(),
        full: false,
    };
    for (list, node) in lists {
        reading.list(list, node);
    }
    reading.rules
}

struct Reading<'a, 's> {
    reader: &'a mut Reader<'s>,
    variables: Variables<'a>,
    rules: Vec<Rule>,
    full: bool,
}

/// What the entries of one action have in common.
#[derive(Clone, Copy)]
struct Context<'a> {
    list: List,
    action: ActionWord,
    reason: Option<&'a str>,
}

impl Reading<'_, '_> {
    fn list(&mut self, list: List, node: &Node) {
        let what = format!("`{}`", list.section());
        let Kind::List(items) = &node.kind else {
            let hint = "write it as a list: `- read_files: [\"/path/*\"]`";
            self.reader
                .wrong_kind(node, &what, "a list of actions", hint);
            return;
        };
        let words = ActionWord::ALL.map(ActionWord::word);
        for item in items {
            let Some(fields) =
                self.reader
                    .fields(item, &format!("an entry of {what}"), &words, &[])
            else {
                continue;
            };
            if matches!(&item.kind, Kind::Map(entries) if entries.is_empty()) {
                self.reader
                    .error(item.span, format!("an entry of {what} is empty"));
            }
            for action in ActionWord::ALL {
                if let Some(node) = fields.get(action.word()) {
                    self.action(
                        Context {
                            list,
                            action,
                            reason: None,
                        },
                        node,
                    );
                }
            }
        }
    }

    fn action(&mut self, context: Context<'_>, node: &Node) {
        let word = context.action.word();
        if let Kind::Scalar(scalar) = &node.kind {
            match scalar.truth() {
                Some(true) if context.action.takes_true() => {
                    self.add(context, node.span, "true", Subject::Other(None));
                    return;
                }
                Some(false) => {
                    let message = format!("`{word}: false` says nothing");
                    let hint = "remove it; what no rule allows is denied";
                    self.reader.error_hint(node.span, message, hint);
                    return;
                }
                _ => {}
            }
        }
        let Kind::List(items) = &node.kind else {
            let (wanted, hint) = if context.action.takes_true() {
                (
                    "a list or `true`",
                    format!("write `{word}: [\"…\"]` or `{word}: true`"),
                )
            } else {
                ("a list", format!("write `{word}: [\"…\"]`"))
            };
            self.reader
                .wrong_kind(node, &format!("`{word}`"), wanted, &hint);
            return;
        };
        if items.is_empty() {
            let message = format!("`{word}` has an empty list");
            self.reader
                .error_hint(node.span, message, "name something, or remove it");
        }
        for item in items {
            match &item.kind {
                Kind::Map(_) => self.map_form(context, item),
                _ => self.entry(context, item),
            }
        }
    }

    /// `{paths: [...], reason: "..."}`
    fn map_form(&mut self, context: Context<'_>, node: &Node) {
        let entries = context.action.entries_word();
        let what = format!("a map of `{}`", context.action.word());
        // What one action calls its entries, a later version may know as a condition of another.
        let later: Vec<&str> = ["paths", "programs", "methods"]
            .into_iter()
            .filter(|word| entries == "hosts" && *word != entries)
            .chain(LATER)
            .collect();
        let Some(fields) = self
            .reader
            .fields(node, &what, &[entries, "reason"], &later)
        else {
            return;
        };
        let reason = match fields.get("reason") {
            Some(reason) => match self.reader.text(reason, "`reason`") {
                Some(text) if text.len() > MAX_REASON_BYTES => {
                    let message = format!("`reason` is longer than {MAX_REASON_BYTES} bytes");
                    self.reader.error(reason.span, message);
                    None
                }
                other => other,
            },
            None => None,
        };
        let Some(list) = fields.get(entries) else {
            let message = format!("{what} has no `{entries}`");
            self.reader
                .error_hint(node.span, message, format!("write `{entries}: [\"…\"]`"));
            return;
        };
        let context = Context { reason, ..context };
        let items = self.reader.list(list, &format!("`{entries}`"));
        if items.is_some_and(<[Node]>::is_empty) {
            self.reader
                .error(list.span, format!("`{entries}` has an empty list"));
        }
        for item in items.unwrap_or_default() {
            self.entry(context, item);
        }
    }

    fn entry(&mut self, context: Context<'_>, node: &Node) {
        let word = context.action.word();
        let scalar = match &node.kind {
            Kind::Scalar(scalar) if scalar.is_null() && scalar.text == "~" => {
                let message = format!("an entry of `{word}` is `~`, which is nothing in YAML");
                self.reader
                    .error_hint(node.span, message, "write `\"~\"` for the home directory");
                return;
            }
            Kind::Scalar(scalar) if !scalar.is_null() => scalar,
            _ => {
                let hint = "write text in quotes, or a map with `reason`";
                self.reader
                    .wrong_kind(node, &format!("an entry of `{word}`"), "text", hint);
                return;
            }
        };
        if let Some(subject) = self.subject(context, node.span, &scalar.text) {
            self.add(context, node.span, &scalar.text, subject);
        }
    }

    fn subject(&mut self, context: Context<'_>, span: Span, text: &str) -> Option<Subject> {
        let found = match context.action {
            ActionWord::ReadFiles | ActionWord::WriteFiles | ActionWord::DeleteFiles => {
                let access = context.action.access()?;
                match Template::parse(text, self.variables) {
                    Ok(pattern) => {
                        self.refuse_over_broad(context, span, &pattern)?;
                        Ok(Subject::Files { access, pattern })
                    }
                    Err(error) => Err((error.message, error.hint)),
                }
            }
            ActionWord::ExecuteCode => ProgramTemplate::parse(text, self.variables)
                .map(Subject::Execute)
                .map_err(|error| (error.message, error.hint)),
            ActionWord::NetworkAccess | ActionWord::ExternalNetwork => {
                match HostPattern::parse(text) {
                    Ok(pattern) => {
                        self.refuse_local_name(context, span, &pattern)?;
                        Ok(if context.action == ActionWord::NetworkAccess {
                            Subject::Network(pattern)
                        } else {
                            Subject::External(pattern)
                        })
                    }
                    Err(error) => Err((error.message, error.hint)),
                }
            }
            _ if text.trim().is_empty() => Err((
                "the entry is empty".to_owned(),
                "name something, or remove it".to_owned(),
            )),
            _ if text.chars().any(char::is_control) || text.len() > MAX_REASON_BYTES => Err((
                "the entry holds a control character or is too long".to_owned(),
                "write it as it is called".to_owned(),
            )),
            _ => Ok(Subject::Other(Some(text.to_owned()))),
        };
        match found {
            Ok(subject) => Some(subject),
            Err((message, hint)) => {
                self.reader.error_hint(span, message, hint);
                None
            }
        }
    }

    /// An allowance to change everything is no policy. `None` when it was refused.
    fn refuse_over_broad(
        &mut self,
        context: Context<'_>,
        span: Span,
        pattern: &Template,
    ) -> Option<()> {
        let changes = matches!(
            context.action,
            ActionWord::WriteFiles | ActionWord::DeleteFiles
        );
        if context.list == List::Allowed && changes && pattern.is_over_broad() {
            let word = context.action.word();
            let message = format!("`{word}: {}` allows it everywhere", pattern.text());
            let hint = "name the trees that are meant, such as `${workdir}/*`";
            self.reader.error_hint(span, message, hint);
            return None;
        }
        Some(())
    }

    /// A name never leads to this machine or its network. `None` when it was refused.
    fn refuse_local_name(
        &mut self,
        context: Context<'_>,
        span: Span,
        pattern: &HostPattern,
    ) -> Option<()> {
        let (HostMatch::Name(name) | HostMatch::Subdomains(name)) = &pattern.host else {
            return Some(());
        };
        if context.list == List::Denied || !is_local_name(name) {
            return Some(());
        }
        let message = format!(
            "{} means this machine or its network, which no name reaches",
            quote(name)
        );
        let hint = "write the literal address, such as `127.0.0.1:8080`";
        self.reader.error_hint(span, message, hint);
        None
    }

    fn add(&mut self, context: Context<'_>, span: Span, text: &str, subject: Subject) {
        if self.rules.len() >= MAX_RULES {
            if !self.full {
                self.full = true;
                let message = format!("the policy holds more than {MAX_RULES} rules");
                self.reader
                    .error_hint(span, message, "join entries with `*`");
            }
            return;
        }
        let number = u32::try_from(self.rules.len() + 1).unwrap_or(u32::MAX);
        self.rules.push(Rule {
            id: RuleId(number),
            list: context.list,
            action: context.action,
            subject,
            text: text.to_owned(),
            reason: context.reason.map(str::to_owned),
            place: self.reader.place(span),
        });
    }
}

impl Template {
    /// Whether the pattern speaks of everything, whatever the directories not known yet are.
    fn is_over_broad(&self) -> bool {
        let text = self.text();
        matches!(self.head, Head::Root | Head::Name)
            && !text.is_empty()
            && text.chars().all(|c| matches!(c, '/' | '*'))
    }
}
