//! The two architectures a filter can be made for, and their system call tables.
//!
//! The numbers come from the crate `syscalls`; a test compares them with the two other tables at hand.

use std::fmt;

use serde::{Deserialize, Serialize};
use syscalls::{aarch64, x86_64};

/// A processor architecture as the kernel's audit code tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `AUDIT_ARCH_X86_64`. The x32 calls, which carry the same value, are killed by every filter.
    #[serde(rename = "x86_64")]
    X86_64,
    /// `AUDIT_ARCH_AARCH64`.
    Aarch64,
}

impl Architecture {
    /// Every architecture a profile speaks of.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture this program was built for, or `None` where no filter can be made.
    #[must_use]
    pub const fn host() -> Option<Self> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Self::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_pointer_width = "64")) {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// The name used in profiles.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The value of `seccomp_data.arch`, `AUDIT_ARCH_*` in `linux/audit.h`.
    #[must_use]
    pub const fn audit_value(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The architecture with this `seccomp_data.arch` value.
    #[must_use]
    pub fn from_audit_value(value: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|architecture| architecture.audit_value() == value)
    }

    /// The highest system call number that has a name.
    pub(super) fn last_number(self) -> u32 {
        let last = match self {
            Self::X86_64 => x86_64::Sysno::last().id(),
            Self::Aarch64 => aarch64::Sysno::last().id(),
        };
        last.unsigned_abs()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The name of a system call, or `None` for a number without one (negative numbers included).
#[must_use]
pub fn syscall_name(architecture: Architecture, number: i32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match architecture {
        Architecture::X86_64 => x86_64::Sysno::new(number).map(|call| call.name()),
        Architecture::Aarch64 => aarch64::Sysno::new(number).map(|call| call.name()),
    }
}

/// The number of a system call, or `None` where this architecture has no call of that name.
#[must_use]
pub fn syscall_number(architecture: Architecture, name: &str) -> Option<u32> {
    let number = match architecture {
        Architecture::X86_64 => name.parse::<x86_64::Sysno>().ok()?.id(),
        Architecture::Aarch64 => name.parse::<aarch64::Sysno>().ok()?.id(),
    };
    u32::try_from(number).ok()
}
