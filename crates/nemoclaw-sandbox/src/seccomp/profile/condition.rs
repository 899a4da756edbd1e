//! One comparison of one argument.

use serde::Deserialize;

/// A comparison that must hold for its alternative to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::seccomp) struct Condition {
    /// 0 to 5.
    pub(in crate::seccomp) argument: u8,
    pub(in crate::seccomp) width: Width,
    pub(in crate::seccomp) test: Test,
}

/// How much of the 64-bit register the kernel looks at for this argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::seccomp) enum Width {
    /// The low 32 bits: an `int` or `unsigned int`, whose upper half a caller may fill at will.
    Dword,
    /// All 64 bits.
    Qword,
}

/// The comparison; the argument stands on the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::seccomp) enum Test {
    Eq(u64),
    Ne(u64),
    Lt(u64),
    Le(u64),
    Gt(u64),
    Ge(u64),
    MaskedEq { mask: u64, value: u64 },
}

impl Condition {
    /// Whether the condition holds for these arguments, said as plainly as it can be; the tests hold
    /// the compiled program against it.
    #[cfg(test)]
    pub(in crate::seccomp) fn holds(&self, arguments: &[u64; 6]) -> bool {
        let whole = arguments[usize::from(self.argument)];
        let seen = match self.width {
            Width::Dword => whole & 0xffff_ffff,
            Width::Qword => whole,
        };
        match self.test {
            Test::Eq(value) => seen == value,
            Test::Ne(value) => seen != value,
            Test::Lt(value) => seen < value,
            Test::Le(value) => seen <= value,
            Test::Gt(value) => seen > value,
            Test::Ge(value) => seen >= value,
            Test::MaskedEq { mask, value } => seen & mask == value,
        }
    }
}
