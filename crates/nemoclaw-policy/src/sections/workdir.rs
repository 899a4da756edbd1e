//! `workdir`: the directory in which the agent works.

use serde::Serialize;

use crate::diagnostic::quote;
use crate::path::SandboxPath;
use crate::reader::Reader;
use crate::yaml::Node;

/// What becomes of the agent's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkdirMode {
    /// They are made at once.
    #[default]
    Direct,
}

/// The directory in which the agent works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workdir {
    /// The path as it was written: absolute, beginning with `~/`, or relative to the directory in
    /// which the agent is started. Without `..`.
    pub path: String,
    /// What becomes of the agent's changes.
    pub mode: WorkdirMode,
}

impl Default for Workdir {
    fn default() -> Self {
        Self {
            path: ".".to_owned(),
            mode: WorkdirMode::Direct,
        }
    }
}

impl Workdir {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        let mut workdir = Self::default();
        let Some(fields) = reader.fields(node, "`workdir`", &["path", "mode"], &[]) else {
            return workdir;
        };
        if let Some(node) = fields.get("path")
            && let Some(text) = reader.text(node, "`workdir.path`")
        {
            if is_directory(text) {
                workdir.path = text.to_owned();
            } else {
                reader.error_hint(
                        node.span,
                        format!("`workdir.path` {} is no directory", quote(text)),
                        "write `.`, `sub/directory`, `~/directory` or `/directory`, without `..`, `//`, `*` or variables",
                    );
            }
        }
        if let Some(node) = fields.get("mode") {
            let _ = reader.choice(node, "`workdir.mode`", &["direct"], &["overlay"]);
        }
        workdir
    }
}

fn is_directory(text: &str) -> bool {
    if text.contains(['*', '$', '\\']) {
        return false;
    }
    let normal = |path: String| SandboxPath::try_from(path).is_ok();
    match text {
        "." | "~" => true,
        _ if text.starts_with('/') => normal(text.to_owned()),
        _ => match text
            .strip_prefix("~/")
            .or(text.strip_prefix("./"))
            .unwrap_or(text)
        {
            rest if rest.starts_with('~') => false,
            rest => normal(format!("/{rest}")) && !rest.is_empty(),
        },
    }
}
