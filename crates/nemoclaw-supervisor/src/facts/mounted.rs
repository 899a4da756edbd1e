//! Which file systems are mounted, and which of them can map ids.

use serde::{Deserialize, Serialize};

/// A mount, as far as planning needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// Where.
    pub(crate) at: String,
    /// The type of its file system.
    pub(crate) kind: String,
}

/// File systems that take idmapped mounts, with the release from which on (`mount_setattr(2)`, kernel sources:
/// `FS_ALLOW_IDMAP`). What is not here is taken not to: FUSE and network file systems decide each for themselves.
const MAPPING: [(&str, (u32, u32)); 12] = [
    ("ext4", (5, 12)),
    ("ext3", (5, 12)),
    ("ext2", (5, 12)),
    ("xfs", (5, 12)),
    ("vfat", (5, 12)),
    ("btrfs", (5, 15)),
    ("ntfs3", (5, 15)),
    ("f2fs", (5, 18)),
    ("erofs", (5, 19)),
    ("overlay", (5, 19)),
    ("tmpfs", (6, 3)),
    ("bcachefs", (6, 7)),
];

impl Mounted {
    /// Whether mounts of it can map ids under a kernel of this release.
    pub(crate) fn maps_ids(&self, kernel: &str) -> bool {
        MAPPING.iter().any(|(kind, from)| {
            *kind == self.kind && release(kernel).is_some_and(|now| now >= *from)
        })
    }
}

/// The mounts of a `mountinfo` (`proc_pid_mountinfo(5)`), in its order.
pub(super) fn parse(text: &str) -> Vec<Mounted> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let at = unescape(before.split(' ').nth(4)?);
            Some(Mounted {
                at,
                kind: after.split(' ').next()?.to_owned(),
            })
        })
        .collect()
}

/// The mount on which a canonical path lies: the deepest one, and of several at one place the last.
pub(super) fn at<'a>(mounts: &'a [Mounted], path: &str) -> Option<&'a Mounted> {
    let above = |mount: &&Mounted| {
        path.strip_prefix(mount.at.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts
        .iter()
        .filter(above)
        .max_by_key(|mount| mount.at.trim_end_matches('/').len())
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
pub(super) fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_deepest_mount_and_on_the_last_of_several() {
        let mounts = parse(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             28 27 0:25 / /home rw shared:1 - nfs4 host:/ rw\n\
             29 28 0:26 / /home/a\\040b rw - xfs /dev/vdb rw\n\
             30 27 0:27 / /home rw - btrfs /dev/vdc rw\n",
        );
        let kind = |path| at(&mounts, path).map(|mounted| mounted.kind.as_str());
        assert_eq!(kind("/"), Some("ext4"));
        assert_eq!(kind("/homework"), Some("ext4"));
        assert_eq!(kind("/home/c"), Some("btrfs"));
        assert_eq!(kind("/home/a b/c"), Some("xfs"));
        assert_eq!(kind("relative"), None);
    }

    #[test]
    fn mapping_depends_on_the_file_system_and_the_release() {
        let tmpfs = Mounted {
            at: "/tmp".to_owned(),
            kind: "tmpfs".to_owned(),
        };
        assert!(!tmpfs.maps_ids("6.2.16-generic"));
        assert!(tmpfs.maps_ids("6.3"));
        assert!(tmpfs.maps_ids("10.0.0"));
        assert!(!tmpfs.maps_ids("unknown"));
        let network = Mounted {
            at: "/n".to_owned(),
            kind: "nfs4".to_owned(),
        };
        assert!(!network.maps_ids("6.18.0"));
    }
}
