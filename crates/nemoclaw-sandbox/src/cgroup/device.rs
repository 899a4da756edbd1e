//! Which disk a directory lies on: the kernel limits whole disks, not file systems and not partitions.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fmt, fs};

use super::{Limit, Missing};

/// A block device's number, written as the control files want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    major: u64,
    minor: u64,
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

impl Missing {
    pub(super) fn no_device(why: &str) -> Self {
        Self {
            limit: Limit::Io,
            why: why.to_owned(),
            remedy: "work in a directory on a local disk, or leave the io limit out".to_owned(),
        }
    }
}

/// The disk beneath `directory`, or why there is none.
///
/// btrfs and the like give their files an anonymous device number; their mount's source then names the disk.
pub(super) fn of(directory: &Path, proc: &Path, sys: &Path) -> Result<Device, String> {
    let metadata = fs::metadata(directory)
        .map_err(|error| format!("could not look at `{}`: {error}", directory.display()))?;
    let (major, minor) = split(metadata.dev());
    if major != 0 {
        return Ok(whole(Device { major, minor }, sys));
    }
    let text = fs::read_to_string(proc.join("self/mountinfo")).map_err(|error| {
        format!(
            "could not read `{}`: {error}",
            proc.join("self/mountinfo").display()
        )
    })?;
    let wanted = format!("{major}:{minor}");
    let (kind, source) = text
        .lines()
        .filter_map(mounted)
        .find_map(|(device, kind, source)| (device == wanted).then_some((kind, source)))
        .unwrap_or(("an unknown file system", ""));
    let none = || {
        format!(
            "`{}` lies on {kind}, which has no disk of its own to limit",
            directory.display()
        )
    };
    if !source.starts_with("/dev/") {
        return Err(none());
    }
    let (major, minor) = split(fs::metadata(source).map_err(|_| none())?.rdev());
    if major == 0 {
        Err(none())
    } else {
        Ok(whole(Device { major, minor }, sys))
    }
}

fn split(device: u64) -> (u64, u64) {
    (
        u64::from(libc::major(device)),
        u64::from(libc::minor(device)),
    )
}

/// The device number, type and source of a mountinfo line.
fn mounted(line: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    Some((before.split(' ').nth(2)?, after.next()?, after.next()?))
}

/// The disk that a partition belongs to; the kernel refuses limits on partitions.
fn whole(device: Device, sys: &Path) -> Device {
    let link = sys.join(format!("dev/block/{device}"));
    if !link.join("partition").exists() {
        return device;
    }
    // Through the link, so that `..` is the disk and not the directory of links.
    let parent = fs::canonicalize(&link)
        .ok()
        .and_then(|path| Some(path.parent()?.join("dev")));
    parent
        .and_then(|file| fs::read_to_string(file).ok())
        .and_then(|text| {
            let (major, minor) = text.trim().split_once(':')?;
            Some(Device {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        })
        .unwrap_or(device)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_is_limited_by_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/pci0/block/sda");
        fs::create_dir_all(disk.join("sda1")).unwrap();
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        symlink(disk.join("sda1"), sys.path().join("dev/block/8:1")).unwrap();
        symlink(&disk, sys.path().join("dev/block/8:0")).unwrap();
        assert_eq!(
            whole(Device { major: 8, minor: 1 }, sys.path()).to_string(),
            "8:0"
        );
        assert_eq!(
            whole(Device { major: 8, minor: 0 }, sys.path()).to_string(),
            "8:0"
        );
        assert_eq!(
            whole(
                Device {
                    major: 254,
                    minor: 3
                },
                sys.path()
            )
            .to_string(),
            "254:3"
        );
    }

    #[test]
    fn a_memory_file_system_has_no_disk_and_says_so() {
        let why = of(
            Path::new("/proc/self"),
            Path::new("/proc"),
            Path::new("/sys"),
        )
        .unwrap_err();
        assert!(why.contains("lies on proc"), "{why}");
    }
}
