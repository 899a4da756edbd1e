//! `identity`: as whom the agent runs, and on whose behalf.

use serde::Serialize;

use crate::reader::Reader;
use crate::yaml::Node;

const MAX_BYTES: usize = 256;

/// As whom the agent's files are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityUser {
    /// Whoever starts the agent.
    #[default]
    Invoking,
}

/// As whom the agent runs, and on whose behalf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Identity {
    /// As whom.
    pub user: IdentityUser,
    /// On whose behalf, in words that go into every record.
    pub on_behalf_of: Option<String>,
}

impl Identity {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        let mut identity = Self::default();
        let known = ["user", "on_behalf_of"];
        let Some(fields) = reader.fields(node, "`identity`", &known, &[]) else {
            return identity;
        };
        if let Some(user) = fields.get("user")
            && let Some(word) = reader.text(user, "`identity.user`")
            && word != "invoking"
        {
            let what = format!("running as another user than `invoking`, such as {word},");
            let message = format!(
                "{} {}",
                crate::diagnostic::visible(&what),
                crate::reader::NOT_YET
            );
            reader.error_hint(user.span, message, "write `user: invoking`");
        }
        if let Some(node) = fields.get("on_behalf_of")
            && let Some(text) = reader.text(node, "`identity.on_behalf_of`")
        {
            if text.len() > MAX_BYTES {
                let message = format!("`identity.on_behalf_of` is longer than {MAX_BYTES} bytes");
                reader.error(node.span, message);
            }
            identity.on_behalf_of = Some(text.to_owned());
        }
        identity
    }
}
