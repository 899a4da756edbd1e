//! `privacy`: what may leave this machine.

use serde::Serialize;

use crate::reader::Reader;
use crate::yaml::Node;

/// What may leave this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Privacy {
    /// Nothing of a model request may: the model must be on this machine.
    pub local_only: bool,
}

impl Privacy {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        const LATER: [&str; 2] = ["classes", "on_sensitive"];
        let Some(fields) = reader.fields(node, "`privacy`", &["local_only"], &LATER) else {
            return Self::default();
        };
        let local_only = fields
            .get("local_only")
            .and_then(|node| reader.truth(node, "`privacy.local_only`"))
            .unwrap_or(false);
        Self { local_only }
    }
}
