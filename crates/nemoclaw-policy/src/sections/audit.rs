//! `audit`: where the record of decisions is kept.

use serde::Serialize;

use crate::diagnostic::quote;
use crate::path::SandboxPath;
use crate::reader::Reader;
use crate::yaml::Node;

/// Where the record of decisions is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Audit {
    /// A directory of the host, absolute or beginning with `~/`; `None` for the default place.
    /// The agent can never reach it.
    pub path: Option<String>,
}

impl Audit {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        const LATER: [&str; 5] = ["retention", "export", "sign", "erase", "alerts"];
        let mut audit = Self::default();
        let Some(fields) = reader.fields(node, "`audit`", &["path"], &LATER) else {
            return audit;
        };
        let Some(node) = fields.get("path") else {
            return audit;
        };
        let Some(text) = reader.text(node, "`audit.path`") else {
            return audit;
        };
        let rest = text.strip_prefix('~').unwrap_or(text);
        let normal = SandboxPath::try_from(rest).is_ok_and(|path| path.as_str() != "/");
        if normal && !text.contains(['*', '$']) {
            audit.path = Some(text.to_owned());
        } else {
            reader.error_hint(
                node.span,
                format!("`audit.path` {} is no directory of the host", quote(text)),
                "write `/directory` or `~/directory`, without `..`, `//`, `*` or variables",
            );
        }
        audit
    }
}
