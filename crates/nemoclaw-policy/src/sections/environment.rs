//! `environment`: which variables the agent sees.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnostic::quote;
use crate::path::SandboxPath;
use crate::reader::Reader;
use crate::yaml::{Kind, Node};

/// Which variables the agent sees; nothing passes that is not listed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Environment {
    /// Names whose values pass from who starts the agent.
    pub pass: Vec<String>,
    /// Names and values that the policy gives.
    pub set: BTreeMap<String, String>,
}

impl Environment {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        let mut environment = Self::default();
        let known = ["pass", "set"];
        let Some(fields) = reader.fields(node, "`environment`", &known, &[]) else {
            return environment;
        };
        if let Some(node) = fields.get("set") {
            environment.set = read_set(reader, node);
        }
        let Some(node) = fields.get("pass") else {
            return environment;
        };
        for item in reader.list(node, "`environment.pass`").unwrap_or_default() {
            let Some(name) = reader.text(item, "a name in `environment.pass`") else {
                continue;
            };
            if !is_name(name) {
                refuse_name(reader, item.span, name);
            } else if environment.set.contains_key(name) {
                let message = format!("{} is both passed and set", quote(name));
                reader.error_hint(item.span, message, "keep one of the two");
            } else if environment.pass.iter().any(|other| other == name) {
                reader.error(item.span, format!("{} is passed twice", quote(name)));
            } else {
                environment.pass.push(name.to_owned());
            }
        }
        environment
    }

    /// The directories of the `PATH` that the policy sets.
    pub(crate) fn path_directories(&self) -> impl Iterator<Item = &str> {
        self.set
            .get("PATH")
            .into_iter()
            .flat_map(|path| path.split(':'))
    }
}

fn read_set(reader: &mut Reader<'_>, node: &Node) -> BTreeMap<String, String> {
    let mut set = BTreeMap::new();
    let Kind::Map(entries) = &node.kind else {
        reader.wrong_kind(
            node,
            "`environment.set`",
            "a map",
            "write it as `{NAME: \"value\"}`",
        );
        return set;
    };
    for (key, value) in entries {
        if !is_name(&key.text) {
            refuse_name(reader, key.span, &key.text);
            continue;
        }
        let what = format!("the value of `{}`", key.text);
        let Some(scalar) = reader.scalar(value, &what) else {
            continue;
        };
        if scalar.text.contains('\0') {
            reader.error(value.span, format!("{what} holds a zero byte"));
            continue;
        }
        if key.text == "PATH" {
            for directory in scalar.text.split(':') {
                if SandboxPath::try_from(directory).is_err() {
                    reader.error_hint(
                        value.span,
                        format!(
                            "`PATH` names {}, which is no absolute directory",
                            quote(directory)
                        ),
                        "write whole directories parted by `:`, without `~`, `.` or variables",
                    );
                }
            }
        }
        set.entry(key.text.clone())
            .or_insert_with(|| scalar.text.clone());
    }
    set
}

fn refuse_name(reader: &mut Reader<'_>, span: crate::diagnostic::Span, name: &str) {
    reader.error_hint(
        span,
        format!("{} is no name of a variable", quote(name)),
        "names are letters, digits and `_`, and do not begin with a digit",
    );
}

/// The names of IEEE Std 1003.1, with small letters too.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 255
}
