//! Identity: what the agent makes in the workspace belongs to the person who started it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use nemoclaw_tests::{Bench, is_root, skip};

#[test]
fn files_that_the_agent_makes_belong_to_who_started_it() {
    let bench = Bench::new();
    bench.write(&bench.work("given"), "");
    let run = bench.probe(
        &bench.policy(),
        &[
            "create:file",
            "make-directory:directory",
            "symlink:file:link",
            "make-fifo:fifo",
            "stat:given",
            "stat:file",
            "ids",
        ],
    );
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    for name in ["file", "directory", "link", "fifo"] {
        let status = fs::symlink_metadata(bench.work(name)).unwrap();
        assert_eq!((status.uid(), status.gid()), (user, group), "{name}\n{run}");
    }
    // Inside, what was there and what is new are both the agent's own.
    let own = run.allowed("ids")["effective"][0].clone();
    assert_ne!(own, 0);
    assert_eq!(run.allowed("stat:given")["user"], own);
    assert_eq!(run.allowed("stat:file")["user"], own);
}

#[test]
fn behind_sudo_files_belong_to_who_called_sudo() {
    if !is_root() {
        skip("root", "only root is called through sudo");
        return;
    }
    let bench = Bench::new();
    // A user that every Debian has: daemon.
    let (user, group) = (1, 1);
    for path in [bench.root().to_owned(), bench.work("")] {
        chown(path, Some(user), Some(group)).unwrap();
    }
    let run = bench
        .probing(
            &bench.policy(),
            &["create:file", "ids", "stat:/usr/bin/env"],
        )
        .environment("SUDO_UID", "1")
        .environment("SUDO_GID", "1")
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let status = fs::metadata(bench.work("file")).unwrap();
    assert_eq!((status.uid(), status.gid()), (user, group), "{run}");
    // The system's own files are nobody's inside, so their owner's rights are not the agent's.
    let of_root = run.allowed("stat:/usr/bin/env")["user"].clone();
    assert_ne!(of_root, run.allowed("ids")["effective"][0], "{run}");
}

#[test]
fn the_agents_user_on_the_host_is_nobody_that_exists() {
    if !is_root() {
        skip("root", "an ordinary user's agent has that user's id");
        return;
    }
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["ids"]);
    let map = run.allowed("ids")["user_map"].as_str().unwrap().to_owned();
    let outside: u32 = map
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(outside >= 100_000, "{map}");
    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(outside)).unwrap();
    assert!(known.is_none(), "{known:?}");
}

#[test]
fn files_of_root_in_the_workspace_stay_out_of_an_ordinary_persons_agents_reach() {
    if !is_root() {
        skip("root", "only root can put such a file there");
        return;
    }
    let bench = Bench::new();
    for path in [bench.root().to_owned(), bench.work("")] {
        chown(path, Some(1), Some(1)).unwrap();
    }
    bench.write(&bench.work("of-root"), "root's");
    fs::set_permissions(
        bench.work("of-root"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let run = bench
        .probing(
            &bench.policy(),
            &["read:of-root", "append:of-root", "change-mode:666:of-root"],
        )
        .environment("SUDO_UID", "1")
        .environment("SUDO_GID", "1")
        .run();
    run.all_refused(&["read:of-root", "append:of-root", "change-mode:666:of-root"]);
}

#[test]
fn no_file_that_the_agent_makes_lends_the_persons_rights_to_others() {
    let bench = Bench::new();
    let refused = [
        "change-mode:4755:file",
        "change-mode:2755:file",
        "change-mode:6777:file",
    ];
    let run = bench.probe(
        &bench.policy(),
        &[&["create:file", "change-mode:755:file"][..], &refused].concat(),
    );
    run.allowed("change-mode:755:file");
    run.all_refused(&refused);
    let status = fs::metadata(bench.work("file")).unwrap();
    assert_eq!(status.mode() & 0o7777, 0o755, "{run}");
    let script = "install -m 4755 /usr/bin/id made; cp /usr/bin/id copied; chmod u+s copied; \
                  python3 -c 'import os; os.open(\"opened\", os.O_CREAT | os.O_WRONLY, 0o6755)'; true";
    let run = bench.agent(&bench.policy(), &["sh", "-c", script]).run();
    for name in ["made", "copied", "opened"] {
        if let Ok(status) = fs::metadata(bench.work(name)) {
            assert_eq!(status.mode() & 0o6000, 0, "{name}\n{run}");
        }
    }
    assert!(bench.work("copied").exists(), "{run}");
}
