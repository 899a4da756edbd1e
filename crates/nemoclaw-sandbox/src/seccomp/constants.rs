//! The names that may stand in a profile for numbers, so that the data can be read.
//!
//! Every one of these has the same value on x86_64 and aarch64. Where `libc` has the constant it is
//! taken from there and otherwise from the kernel header named beside it.

use rustix::io::Errno;

/// Turns `12`, `0x1f` or names joined by `|` into a number.
pub(super) fn resolve(text: &str) -> Option<u64> {
    text.split('|').map(str::trim).try_fold(0, |sum, word| {
        let value = match word.strip_prefix("0x") {
            Some(digits) => hexadecimal(digits)?,
            None if word.starts_with(|first: char| first.is_ascii_digit()) => word.parse().ok()?,
            None => named(word)?,
        };
        Some(sum | value)
    })
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // from_str_radix would also take a sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

fn named(word: &str) -> Option<u64> {
    CONSTANTS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
}

/// The error number with this name, of those a profile may answer with.
pub(super) fn errno(name: &str) -> Option<Errno> {
    ERRNOS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, errno)| *errno)
}

/// The names [`errno`] knows, for messages.
pub(super) fn errno_names() -> String {
    ERRNOS.map(|(name, _)| name).join(", ")
}

const ERRNOS: [(&str, Errno); 7] = [
    ("EACCES", Errno::ACCESS),
    ("EAFNOSUPPORT", Errno::AFNOSUPPORT),
    ("EINVAL", Errno::INVAL),
    ("ENODEV", Errno::NODEV),
    ("ENOSYS", Errno::NOSYS),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EPERM", Errno::PERM),
];

/// A signed libc constant as the kernel sees it in the low half of an argument.
const fn int(value: libc::c_int) -> u64 {
    value.cast_unsigned() as u64
}

const CONSTANTS: &[(&str, u64)] = &[
    // clone(2); CLONE_NEWTIME is absent because clone(2) reads that bit as part of the exit signal.
    ("CLONE_NEWCGROUP", int(libc::CLONE_NEWCGROUP)),
    ("CLONE_NEWIPC", int(libc::CLONE_NEWIPC)),
    ("CLONE_NEWNET", int(libc::CLONE_NEWNET)),
    ("CLONE_NEWNS", int(libc::CLONE_NEWNS)),
    ("CLONE_NEWPID", int(libc::CLONE_NEWPID)),
    ("CLONE_NEWUSER", int(libc::CLONE_NEWUSER)),
    ("CLONE_NEWUTS", int(libc::CLONE_NEWUTS)),
    ("CLONE_PTRACE", int(libc::CLONE_PTRACE)),
    ("CLONE_SIGHAND", int(libc::CLONE_SIGHAND)),
    ("CLONE_THREAD", int(libc::CLONE_THREAD)),
    ("CLONE_VM", int(libc::CLONE_VM)),
    // signal(7)
    ("SIGABRT", int(libc::SIGABRT)),
    // socket(2)
    ("AF_INET", int(libc::AF_INET)),
    ("AF_INET6", int(libc::AF_INET6)),
    ("AF_NETLINK", int(libc::AF_NETLINK)),
    ("AF_UNIX", int(libc::AF_UNIX)),
    ("IPPROTO_IP", int(libc::IPPROTO_IP)),
    ("IPPROTO_TCP", int(libc::IPPROTO_TCP)),
    ("IPPROTO_UDP", int(libc::IPPROTO_UDP)),
    ("NETLINK_ROUTE", int(libc::NETLINK_ROUTE)),
    ("SOCK_DGRAM", int(libc::SOCK_DGRAM)),
    ("SOCK_RAW", int(libc::SOCK_RAW)),
    ("SOCK_SEQPACKET", int(libc::SOCK_SEQPACKET)),
    ("SOCK_STREAM", int(libc::SOCK_STREAM)),
    // Not exported: the part of socket(2)'s type that is the type, linux/net.h.
    ("SOCK_TYPE_MASK", 0xf),
    ("MSG_FASTOPEN", int(libc::MSG_FASTOPEN)),
    ("TCP_ULP", int(libc::TCP_ULP)),
    // ioctl(2), ioctl_tty(2)
    ("FIOCLEX", libc::FIOCLEX),
    ("FIONBIO", libc::FIONBIO),
    ("FIONCLEX", libc::FIONCLEX),
    ("FIONREAD", libc::FIONREAD),
    ("TCGETS", libc::TCGETS),
    ("TIOCGWINSZ", libc::TIOCGWINSZ),
    ("TIOCCONS", libc::TIOCCONS),
    // Missing from libc for aarch64: asm-generic/ioctls.h.
    ("TIOCLINUX", 0x541c),
    ("TIOCSETD", 0x5423),
    ("TIOCSTI", libc::TIOCSTI),
    ("TIOCVHANGUP", 0x5437),
    // open(2); the kernel's own bit of O_TMPFILE, without O_DIRECTORY, is in asm-generic/fcntl.h.
    ("O_CREAT", int(libc::O_CREAT)),
    ("__O_TMPFILE", 0o20_000_000),
    // mknod(2), inode(7)
    ("S_IFIFO", libc::S_IFIFO as u64),
    ("S_IFMT", libc::S_IFMT as u64),
    ("S_IFREG", libc::S_IFREG as u64),
    ("S_IFSOCK", libc::S_IFSOCK as u64),
    ("S_ISGID", libc::S_ISGID as u64),
    ("S_ISUID", libc::S_ISUID as u64),
    // memfd_create(2); linux/memfd.h
    ("MFD_NOEXEC_SEAL", 0x8),
    // personality(2); the second only asks for the current value.
    ("PER_LINUX", 0),
    ("PER_QUERY", 0xffff_ffff),
    // seccomp(2)
    (
        "SECCOMP_FILTER_FLAG_NEW_LISTENER",
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ),
    (
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    ),
    // prctl(2); linux/prctl.h
    ("PR_SET_PDEATHSIG", 1),
    ("PR_GET_PDEATHSIG", 2),
    ("PR_GET_DUMPABLE", 3),
    ("PR_SET_DUMPABLE", 4),
    ("PR_GET_KEEPCAPS", 7),
    ("PR_SET_KEEPCAPS", 8),
    ("PR_GET_TIMING", 13),
    ("PR_SET_NAME", 15),
    ("PR_GET_NAME", 16),
    ("PR_GET_SECCOMP", 21),
    ("PR_SET_SECCOMP", 22),
    ("PR_CAPBSET_READ", 23),
    ("PR_CAPBSET_DROP", 24),
    ("PR_GET_TSC", 25),
    ("PR_GET_SECUREBITS", 27),
    ("PR_SET_TIMERSLACK", 29),
    ("PR_GET_TIMERSLACK", 30),
    ("PR_MCE_KILL_GET", 34),
    ("PR_SET_CHILD_SUBREAPER", 36),
    ("PR_GET_CHILD_SUBREAPER", 37),
    ("PR_SET_NO_NEW_PRIVS", 38),
    ("PR_GET_NO_NEW_PRIVS", 39),
    ("PR_GET_TID_ADDRESS", 40),
    ("PR_SET_THP_DISABLE", 41),
    ("PR_GET_THP_DISABLE", 42),
    ("PR_CAP_AMBIENT", 47),
    ("PR_SVE_SET_VL", 50),
    ("PR_SVE_GET_VL", 51),
    ("PR_GET_SPECULATION_CTRL", 52),
    ("PR_SET_SPECULATION_CTRL", 53),
    ("PR_PAC_RESET_KEYS", 54),
    ("PR_SET_TAGGED_ADDR_CTRL", 55),
    ("PR_GET_TAGGED_ADDR_CTRL", 56),
    ("PR_PAC_GET_ENABLED_KEYS", 61),
    ("PR_SME_SET_VL", 63),
    ("PR_SME_GET_VL", 64),
    ("PR_SET_MDWE", 65),
    ("PR_GET_MDWE", 66),
    ("PR_GET_MEMORY_MERGE", 68),
    ("PR_GET_SHADOW_STACK_STATUS", 74),
    ("PR_SET_SHADOW_STACK_STATUS", 75),
    ("PR_LOCK_SHADOW_STACK_STATUS", 76),
    ("PR_SET_VMA", 0x5356_4d41),
    ("PR_SPEC_DISABLE", 4),
    ("PR_SPEC_FORCE_DISABLE", 8),
    ("PR_SPEC_DISABLE_NOEXEC", 16),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_joined_names_resolve_and_nothing_else() {
        assert_eq!(resolve("7"), Some(7));
        assert_eq!(resolve("0xffffffffffffffff"), Some(u64::MAX));
        assert_eq!(resolve("CLONE_NEWNS | CLONE_NEWPID"), Some(0x2002_0000));
        for wrong in [
            "",
            "CLONE_NEWNS |",
            "0x",
            "0x+1",
            "+1",
            "-1",
            "7z",
            "af_inet",
        ] {
            assert_eq!(resolve(wrong), None, "`{wrong}`");
        }
    }

    #[test]
    fn no_constant_is_listed_twice() {
        let mut names: Vec<_> = CONSTANTS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CONSTANTS.len());
    }
}
