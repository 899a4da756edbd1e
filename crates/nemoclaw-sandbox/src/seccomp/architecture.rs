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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, TargetArch};

    use super::*;

    /// The number that `seccompiler`'s own table has for the call, read out of a compiled filter.
    fn other_table(target: TargetArch, name: &str) -> Option<u32> {
        let text = format!(
            r#"{{ "t": {{ "mismatch_action": "trap", "match_action": "allow", "filter": [{{ "syscall": "{name}" }}] }} }}"#
        );
        let filters: BTreeMap<String, BpfProgram> =
            seccompiler::compile_from_json(text.as_bytes(), target)
                .ok()?
                .into_iter()
                .collect();
        // Architecture: load, compare, kill; number: load, compare.
        filters["t"].get(4).map(|compare| compare.k)
    }

    #[test]
    fn the_table_agrees_with_the_filter_compilers_own() {
        let targets = [
            (Architecture::X86_64, TargetArch::x86_64, 330),
            (Architecture::Aarch64, TargetArch::aarch64, 280),
        ];
        for (architecture, target, at_least) in targets {
            let mut compared = 0;
            for number in 0..=architecture.last_number() {
                let Some(name) = syscall_name(architecture, number.cast_signed()) else {
                    continue;
                };
                assert_eq!(syscall_number(architecture, name), Some(number));
                if let Some(other) = other_table(target, name) {
                    assert_eq!(other, number, "{architecture} {name}");
                    compared += 1;
                }
            }
            assert!(
                compared >= at_least,
                "{architecture}: only {compared} calls compared"
            );
        }
    }

    #[test]
    fn the_table_agrees_with_the_c_librarys_numbers() {
        let Some(host) = Architecture::host() else {
            return;
        };
        let known = [
            ("read", libc::SYS_read),
            ("clone", libc::SYS_clone),
            ("clone3", libc::SYS_clone3),
            ("socket", libc::SYS_socket),
            ("ioctl", libc::SYS_ioctl),
            ("execve", libc::SYS_execve),
            ("prctl", libc::SYS_prctl),
            ("seccomp", libc::SYS_seccomp),
            ("unshare", libc::SYS_unshare),
            ("bpf", libc::SYS_bpf),
            ("memfd_create", libc::SYS_memfd_create),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("openat2", libc::SYS_openat2),
            ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
            ("mseal", libc::SYS_mseal),
        ];
        for (name, number) in known {
            assert_eq!(
                syscall_number(host, name).map(i64::from),
                Some(number),
                "{name}"
            );
        }
    }

    #[test]
    fn a_number_without_a_call_has_no_name() {
        for architecture in Architecture::ALL {
            for number in [-1, i32::MIN, i32::MAX, 0x4000_0000, 100_000] {
                assert_eq!(
                    syscall_name(architecture, number),
                    None,
                    "{architecture} {number}"
                );
            }
            assert_eq!(
                Architecture::from_audit_value(architecture.audit_value()),
                Some(architecture)
            );
        }
    }
}
