//! Privileges: the agent has none and gets none.

use nemoclaw_tests::Bench;
use serde_json::json;

#[test]
fn all_five_capability_sets_are_empty_and_stay_so() {
    let bench = Bench::new();
    let tries = [
        "become-root",
        "become-root-group",
        "set-groups",
        "regain-capabilities",
    ];
    let run = bench.probe(
        &bench.policy(),
        &[&tries[..], &["capabilities", "secure-bits"]].concat(),
    );
    for (set, value) in run.allowed("capabilities").as_object().unwrap() {
        assert_eq!(value, "0000000000000000", "{set}");
    }
    // SECBIT_NOROOT, NO_SETUID_FIXUP and KEEP_CAPS' lock, each with its lock: what is off stays off.
    let bits = run.allowed("secure-bits").as_u64().unwrap();
    for lock in [1 << 1, 1 << 3, 1 << 5, 1 << 7] {
        assert_ne!(bits & lock, 0, "{bits:#b}");
    }
    assert_ne!(bits & 1, 0, "{bits:#b}");
    run.all_refused(&tries);
}

#[test]
fn no_new_privileges_and_a_filter_are_in_force() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["no-new-privs", "seccomp"]);
    assert_eq!(run.allowed("no-new-privs"), true);
    assert_eq!(run.allowed("seccomp"), "2");
}

#[test]
fn the_agent_is_nobody_of_importance() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["ids"]);
    let ids = run.allowed("ids");
    for kind in ["real", "effective", "saved"] {
        for id in ids[kind].as_array().unwrap() {
            assert_ne!(*id, 0, "{ids}");
        }
    }
    // One id each, and it is not the host's root.
    for map in ["user_map", "group_map"] {
        let map = ids[map].as_str().unwrap();
        assert_eq!(map.lines().count(), 1, "{map}");
        let numbers: Vec<u64> = map
            .split_ascii_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        assert_ne!(numbers[0], 0, "{map}");
        assert_ne!(numbers[1], 0, "{map}");
        assert_eq!(numbers[2], 1, "{map}");
    }
    if nemoclaw_tests::is_root() {
        assert_eq!(ids["groups"], json!([]), "{ids}");
    }
}

#[test]
fn set_user_id_files_and_devices_are_of_no_use() {
    let bench = Bench::new();
    bench.write(&bench.work("file"), "");
    let tries = [
        "make-device:null",
        "make-block-device:disk",
        "make-device:/dev/mine",
        "make-device:/tmp/null",
        "change-owner:file",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    run.all_refused(&tries);
}

#[test]
fn of_devices_there_are_only_the_harmless_ones() {
    let bench = Bench::new();
    let tries = [
        "stat:/dev/mem",
        "stat:/dev/kmsg",
        "stat:/dev/kvm",
        "stat:/dev/fuse",
        "stat:/dev/net/tun",
        "stat:/dev/sda",
        "stat:/dev/vda",
        "stat:/dev/loop-control",
        "stat:/dev/userfaultfd",
        "stat:/dev/vsock",
        "stat:/dev/tty0",
        "stat:/dev/snd",
        "stat:/dev/dri",
        "stat:/dev/input",
    ];
    let run = bench.probe(
        &bench.policy(),
        &[
            &tries[..],
            &["mounts", "write:/dev/null", "read:/dev/urandom"],
        ]
        .concat(),
    );
    for word in tries {
        run.refused_as(word, &["ENOENT"]);
    }
    run.allowed("write:/dev/null");
    run.allowed("read:/dev/urandom");
    let known = [
        "full", "null", "pts", "random", "shm", "tty", "urandom", "zero",
    ]
    .map(|name| format!("/dev/{name}"));
    for mount in run.allowed("mounts").as_array().unwrap() {
        let path = mount["path"].as_str().unwrap();
        assert!(
            !path.starts_with("/dev/") || known.iter().any(|known| known == path),
            "{mount}"
        );
    }
}

#[test]
fn a_set_user_id_program_runs_as_the_agent() {
    let bench = Bench::new();
    // su, passwd and others are set-user-id on every distribution; id shows nothing new either way.
    let script = "for program in /usr/bin/su /usr/bin/passwd /usr/bin/newgrp /usr/bin/chsh; do \
                  [ -u $program ] && echo found; done; id -u; su -c 'id -u' < /dev/null";
    let run = bench.agent(&bench.policy(), &["sh", "-c", script]).run();
    assert!(!run.output.lines().any(|line| line == "0"), "{run}");
    assert_ne!(run.code(), 0, "su must fail\n{run}");
}

#[test]
fn settings_of_the_kernel_cannot_be_written() {
    let bench = Bench::new();
    let tries = [
        "open-write:/proc/sys/kernel/core_pattern",
        "open-write:/proc/sys/kernel/modprobe",
        "open-write:/proc/sys/kernel/hostname",
        "open-write:/proc/sys/net/ipv4/ip_forward",
        "open-write:/proc/sys/vm/overcommit_memory",
        "open-write:/proc/sys/user/max_user_namespaces",
        "open-write:/proc/sysrq-trigger",
        "open-write:/proc/self/oom_score_adj",
        "open-write:/proc/self/uid_map",
        "open-write:/proc/self/setgroups",
        "open-write:/proc/1/mem",
        "open-write:/sys/kernel/mm/ksm/run",
        "create:/proc/new",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    run.all_refused(&tries);
}

#[test]
fn what_proc_tells_of_the_machine_is_masked() {
    let bench = Bench::new();
    let masked = [
        "/proc/kallsyms",
        "/proc/kcore",
        "/proc/keys",
        "/proc/kmsg",
        "/proc/timer_list",
    ];
    let words: Vec<String> = masked.iter().map(|path| format!("read:{path}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    for word in words {
        let found = run.find(word);
        assert!(!found.ok || found.detail == "", "{found:?}");
    }
}

#[test]
fn core_dumps_are_off_and_files_are_bounded() {
    let bench = Bench::new();
    let policy = bench.policy().section("resources: {open_files: 64}");
    let run = bench.probe(&policy, &["limits", "open-files:100"]);
    let limits = run.allowed("limits");
    assert_eq!(limits["core"], json!([0, 0]), "{limits}");
    assert_eq!(limits["open_files"], json!([64, 64]), "{limits}");
    let opened = run.allowed("open-files:100");
    assert_eq!(opened["refusal"], "EMFILE", "{opened}");
    assert!(opened["opened"].as_u64().unwrap() <= 64, "{opened}");
}
