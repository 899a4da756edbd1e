//! The files of a log: who may own them, what they may be, and how they are made.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nemoclaw_audit::{Durability, Entry, Log, Reader, verify};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn refused(path: &Path, directory: &Path) -> String {
    let error = Log::open(path, Durability::EveryBatch).unwrap_err();
    error
        .to_string()
        .replace(&directory.display().to_string(), "DIR")
}

#[test]
fn files_are_private_and_missing_directories_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/log");
    let mut log = Log::open(&path, Durability::EveryBatch).unwrap();
    let _ = log.append(&[Entry::new("x")]).unwrap();
    let _ = log.append(&[Entry::new("y")]).unwrap();
    assert_eq!(mode(&directory.path().join("a")), 0o700);
    assert_eq!(mode(&directory.path().join("a/b")), 0o700);
    for name in ["log", "log.head", "log.head.spare"] {
        assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
    }
}

#[test]
fn a_log_that_somebody_else_could_change_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let path = root.join("log");
    let mut told = Vec::new();

    symlink("elsewhere", &path).unwrap();
    told.push(refused(&path, root));
    assert!(!root.join("elsewhere").exists());
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    told.push(refused(&path, root));
    fs::remove_dir(&path).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    told.push(refused(&path, root));
    fs::remove_file(&path).unwrap();

    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
    told.push(refused(&path, root));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

    fs::hard_link(&path, root.join("second")).unwrap();
    told.push(refused(&path, root));
    fs::remove_file(root.join("second")).unwrap();

    symlink("elsewhere", root.join("log.head")).unwrap();
    told.push(refused(&path, root));
    fs::remove_file(root.join("log.head")).unwrap();

    symlink("elsewhere", root.join("log.head.spare")).unwrap();
    told.push(refused(&path, root));
    fs::remove_file(root.join("log.head.spare")).unwrap();

    fs::set_permissions(root, Permissions::from_mode(0o770)).unwrap();
    told.push(refused(&path, root));
    fs::set_permissions(root, Permissions::from_mode(0o700)).unwrap();

    told.push(refused(Path::new("/"), root));
    insta::assert_snapshot!(told.join("\n"), @"
    `DIR/log` is a symbolic link; name the file itself
    could not open `DIR/log`
    `DIR/log` is not a regular file; choose another path for the audit log
    `DIR/log` may be written by others (mode 0620); run `chmod go-w` on it
    `DIR/log` has a second hard link; remove it, or choose another path for the audit log
    `DIR/log.head` is a symbolic link; name the file itself
    `DIR/log.head.spare` is a symbolic link; name the file itself
    `DIR` may be written by others (mode 0770); run `chmod go-w` on it
    the audit log `/` names no file
    ");
    drop(Log::open(&path, Durability::EveryBatch).unwrap());
}

#[test]
fn a_log_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        skip(
            "a_log_of_somebody_else_is_refused",
            "root",
            "giving a file away needs root",
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "").unwrap();
    std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
    insta::assert_snapshot!(refused(&path, directory.path()), @"`DIR/log` belongs to user 1234, and this is user 0; give it to user 0, or choose another path for the audit log");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::chown(directory.path(), Some(1234), None).unwrap();
    insta::assert_snapshot!(refused(&path, directory.path()), @"`DIR` belongs to user 1234, and this is user 0; give it to user 0, or choose another path for the audit log");
}

#[test]
fn a_log_that_may_only_be_read_is_refused_to_a_user_and_can_be_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = Log::open(&path, Durability::EveryBatch).unwrap();
    let _ = log.append(&[Entry::new("x")]).unwrap();
    drop(log);
    for name in ["log", "log.head"] {
        fs::set_permissions(path.with_file_name(name), Permissions::from_mode(0o400)).unwrap();
    }
    assert_eq!(verify(&path).unwrap().first_bad, None);
    assert_eq!(Reader::open(&path).unwrap().count(), 1);
    if rustix::process::geteuid().is_root() {
        skip(
            "a_log_that_may_only_be_read_is_refused_to_a_user_and_can_be_verified",
            "user",
            "root may write what is read-only",
        );
        return;
    }
    let told = refused(&path, directory.path());
    assert!(told.starts_with("could not open `DIR/log`"), "{told}");
}

#[test]
fn readers_follow_no_link_and_open_no_fifo() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("/etc/hostname", &link).unwrap();
    assert!(Reader::open(&link).is_err());
    assert!(verify(&link).is_err());
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(Reader::open(&fifo).is_err());
    assert!(verify(&fifo).is_err());
    assert!(verify(&directory.path().join("none")).is_err());
}

/// Tells that a test was skipped; `NEMOCLAW_REQUIRE` makes it a failure.
fn skip(test: &str, need: &str, reason: &str) {
    let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == need),
        "{test} is required and was skipped: {reason}"
    );
    // Not by `eprintln!`, which the harness keeps to itself when a test passes.
    let _ = writeln!(io::stderr(), "SKIP {test}: {reason}");
}
