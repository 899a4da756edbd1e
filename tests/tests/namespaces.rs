//! Namespaces: the agent has its own of each kind and can make or enter no other.

use std::fs;

use nemoclaw_tests::Bench;

const KINDS: [&str; 8] = [
    "user", "mount", "pid", "net", "ipc", "uts", "cgroup", "time",
];

#[test]
fn the_agent_shares_no_namespace_with_the_host() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["namespaces", "host-name", "uptime"]);
    let inside = run.allowed("namespaces");
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        // A kernel without the kind has no such file.
        if let Ok(own) = fs::read_link(format!("/proc/self/ns/{kind}")) {
            assert!(inside[kind].is_string(), "{inside}");
            assert_ne!(inside[kind], own.to_string_lossy().as_ref(), "{kind}");
        }
    }
    assert_eq!(run.allowed("host-name"), bench.name);
    if inside["time"].is_string() {
        let uptime = run.allowed("uptime").as_u64().unwrap();
        assert!(uptime < 60, "the host's uptime is shown: {uptime}");
    }
}

#[test]
fn no_namespace_of_any_kind_can_be_made() {
    let bench = Bench::new();
    let mut words: Vec<String> = Vec::new();
    for kind in KINDS {
        words.push(format!("unshare:{kind}"));
        if kind != "time" {
            // clone(2) knows no CLONE_NEWTIME: its bit belongs to the exit signal.
            words.push(format!("clone-into:{kind}"));
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &[&words[..], &["clone3"]].concat());
    for word in words {
        run.refused_as(word, &["EPERM"]);
    }
    run.refused_as("clone3", &["ENOSYS"]);
}

#[test]
fn no_namespace_can_be_entered() {
    let bench = Bench::new();
    let tries = [
        "join:/proc/1/ns/net",
        "join:/proc/1/ns/mnt",
        "join:/proc/1/ns/user",
        "join:/proc/self/ns/net",
        "join:/proc/self/ns/user",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    for word in tries {
        run.refused_as(word, &["EPERM", "EACCES"]);
    }
}

#[test]
fn mounts_cannot_be_made_moved_or_removed() {
    let bench = Bench::new();
    bench.write(&bench.work("a/file"), "a");
    bench.write(&bench.work("b/file"), "b");
    let tries = [
        "mount-tmpfs:a",
        "mount-proc:a",
        "mount-bind:a:b",
        "mount-bind:/:a",
        "move-mount:/tmp:a",
        "remount-writable:/usr",
        "remount-writable:/",
        "remount-writable:/proc/sys",
        "unmount:/proc",
        "unmount:/tmp",
        "unmount:/",
        "pivot-root:a:a",
        "change-root:/tmp",
        "clone-tree:/",
        "open-file-system:tmpfs",
        "open-file-system:overlay",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    for word in tries {
        run.refused_as(word, &["EPERM"]);
    }
}

#[test]
fn every_mount_is_without_set_user_id_and_devices_and_nothing_comes_from_the_host() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["mounts"]);
    let mounts = run.allowed("mounts");
    let mounts = mounts.as_array().unwrap();
    assert!(mounts.len() > 5, "{mounts:?}");
    let devices = ["null", "zero", "full", "random", "urandom", "tty", "pts"]
        .map(|name| format!("/dev/{name}"));
    for mount in mounts {
        let path = mount["path"].as_str().unwrap();
        let has = |flag: &str| {
            mount["flags"]
                .as_array()
                .unwrap()
                .iter()
                .any(|other| other == flag)
        };
        assert!(has("nosuid"), "{mount}");
        assert!(
            has("nodev") || devices.iter().any(|device| device == path),
            "{mount}"
        );
        // `shared:` or `master:`: a mount that is made on the host would appear here.
        assert_eq!(mount["propagation"], serde_json::json!([]), "{mount}");
        let executable = !has("noexec");
        if executable {
            assert!(has("ro"), "a writable mount is executable: {mount}");
        }
    }
    let own = bench
        .work("")
        .to_string_lossy()
        .trim_end_matches('/')
        .to_owned();
    assert!(
        mounts.iter().any(|mount| mount["path"] == own.as_str()),
        "{mounts:?}"
    );
}
