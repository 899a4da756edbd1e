//! What a rule says about an action, and which rule wins.

use core::fmt;

/// What a rule says about an action.
///
/// The order is the order of precedence: the greater of two verdicts wins, wherever they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// The action goes ahead.
    Allow = 0,
    /// The action waits until somebody approves it.
    Ask = 1,
    /// The action is refused.
    Deny = 2,
}

impl Verdict {
    /// The verdict of two rules together: a denial beats an approval, an approval beats an
    /// allowance.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }

    /// The verdict as one word: `allow`, `ask` or `deny`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    /// The verdict with this number in a kernel map; `None` when there is none, which the caller
    /// must treat as a denial.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Allow),
            1 => Some(Self::Ask),
            2 => Some(Self::Deny),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_beats_an_approval_and_an_approval_beats_an_allowance() {
        use Verdict::{Allow, Ask, Deny};
        for (left, right, both) in [(Allow, Ask, Ask), (Ask, Deny, Deny), (Allow, Deny, Deny)] {
            assert_eq!(left.and(right), both);
            assert_eq!(right.and(left), both);
        }
    }

    #[test]
    fn a_number_that_is_no_verdict_is_refused() {
        for verdict in [Verdict::Allow, Verdict::Ask, Verdict::Deny] {
            assert_eq!(Verdict::from_u8(verdict as u8), Some(verdict));
        }
        assert_eq!(Verdict::from_u8(3), None);
    }
}
