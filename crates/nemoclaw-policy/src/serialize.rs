//! How types of the kernel ABI, which know nothing of serde, are written in reports.

use nemoclaw_common::{FileAccess, RuleId, Verdict};
use serde::{Serialize, Serializer};

/// The words of a set, as a list.
pub(crate) fn access<S: Serializer>(value: &FileAccess, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(value.words())
}

/// The number as text: `7`, or `b3` for a built-in rule.
pub(crate) fn rule<S: Serializer>(value: &RuleId, serializer: S) -> Result<S::Ok, S::Error> {
    value.to_string().serialize(serializer)
}

/// The verdict as one word.
pub(crate) fn verdict<S: Serializer>(value: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}
