//! The number by which kernel maps, records and reports name a rule.

use core::fmt;

/// The number of a rule within one policy.
///
/// Rules that the policy's text holds count from 1 in the order of the text; built-in rules count
/// from [`RuleId::FIRST_BUILT_IN`]. [`RuleId::NONE`] stands for the default denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule spoke: the default denial.
    pub const NONE: Self = Self(0);
    /// The first number of the rules that no text holds.
    pub const FIRST_BUILT_IN: Self = Self(0x8000_0000);

    /// Whether the rule is built in rather than written in the policy.
    #[must_use]
    pub const fn is_built_in(self) -> bool {
        self.0 >= Self::FIRST_BUILT_IN.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_built_in() {
            write!(f, "b{}", self.0 - Self::FIRST_BUILT_IN.0)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn built_in_rules_are_told_from_written_ones() {
        assert!(RuleId::FIRST_BUILT_IN.is_built_in());
        assert!(!RuleId(7).is_built_in());
        assert_eq!(RuleId(7).to_string(), "7");
        assert_eq!(RuleId(RuleId::FIRST_BUILT_IN.0 + 3).to_string(), "b3");
    }
}
