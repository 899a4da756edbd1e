//! Ways out that were tried elsewhere and found open. Each must stay closed here.
//!
//! What an agent must not be able to do, and the tests that hold it:
//!
//! | what | tests |
//! | --- | --- |
//! | read `/etc/shadow` | `files::what_no_rule_names_is_not_there`, `files::the_smallest_policy_does_what_the_readme_shows` |
//! | read the home's dot files | `files::the_home_and_its_dot_files_are_not_there` |
//! | read a denied file inside an allowed tree | `files::a_denied_file_in_an_allowed_tree_is_covered`, and below by rename, exchange, link and unmount |
//! | write outside by path | `files::what_no_rule_names_is_not_there`, `files::a_tree_that_may_only_be_read_is_only_read` |
//! | write outside by `..` | `nothing_outside_is_reached_by_dots_links_or_proc` |
//! | write outside by a symbolic link | `nothing_outside_is_reached_by_dots_links_or_proc`, `links_swapped_during_launches_lead_nowhere` |
//! | write outside by `/proc/self/root` | `nothing_outside_is_reached_by_dots_links_or_proc` |
//! | see processes outside | `processes::only_its_own_processes_are_seen` |
//! | signal processes outside | `processes::processes_of_the_host_cannot_be_signalled_traced_or_read`, `processes::signals_to_everybody_reach_only_the_sandbox` |
//! | use any socket but loopback | all of `network` |
//! | make a user namespace | `namespaces::no_namespace_of_any_kind_can_be_made` |
//! | mount | `namespaces::mounts_cannot_be_made_moved_or_removed` |
//! | trace | `processes::tracing_is_refused_even_among_its_own`, `processes::processes_of_the_host_cannot_be_signalled_traced_or_read` |
//! | use a leaked descriptor | `environment::no_descriptor_but_the_standard_three_is_inherited` |
//! | read a secret of the environment | `environment::no_secret_of_the_callers_environment_is_inherited` |
//! | make a system call off the list | `syscalls::every_call_that_no_agent_needs_is_refused`, `syscalls::calls_by_the_entries_of_other_architectures_end_the_process` |
//! | outlive the supervisor | `lifetime::the_agent_and_all_it_started_die_with_a_supervisor_that_is_killed` |
//! | leave a daemon behind | `lifetime::a_daemon_dies_with_the_agent` |

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nemoclaw_tests::Bench;

#[test]
fn nothing_outside_is_reached_by_dots_links_or_proc() {
    let bench = Bench::new();
    bench.write(&bench.outside("secret"), "not for agents");
    let secret = bench.outside("secret");
    // Planted before the start, by an earlier agent perhaps.
    symlink(&secret, bench.work("absolute")).unwrap();
    symlink("../outside/secret", bench.work("relative")).unwrap();
    symlink("../outside", bench.work("directory")).unwrap();
    symlink("/", bench.work("root")).unwrap();
    symlink("/proc/self/root/etc/shadow", bench.work("shadow")).unwrap();
    symlink("/proc/1/root", bench.work("first")).unwrap();
    let path = secret.display();
    let ways = [
        "absolute".to_owned(),
        "relative".to_owned(),
        "directory/secret".to_owned(),
        format!("root{path}"),
        "shadow".to_owned(),
        "first/etc/shadow".to_owned(),
        "../outside/secret".to_owned(),
        "../../../../../../../../etc/shadow".to_owned(),
        format!("/proc/self/root{path}"),
        "/proc/self/cwd/../outside/secret".to_owned(),
        format!("/proc/thread-self/root{path}"),
        format!("/proc/1/root{path}"),
        format!("/proc/1/cwd{path}"),
        "/proc/self/root/etc/shadow".to_owned(),
        "/dev/fd/../../../etc/shadow".to_owned(),
    ];
    let mut words = Vec::new();
    for way in &ways {
        for what in ["read", "write", "append", "truncate-path", "delete"] {
            // Deleting the link itself is deleting what is in the workspace.
            if what != "delete"
                || way.contains("..")
                || way.starts_with('/')
                || way.contains("/secret")
            {
                words.push(format!("{what}:{way}"));
            }
        }
    }
    for outside in [
        "../outside/new",
        "directory/new",
        "root/new",
        "/proc/self/root/new",
        "/proc/self/cwd/../new",
    ] {
        words.push(format!("create:{outside}"));
        words.push(format!("make-directory:{outside}"));
        words.push(format!("symlink:x:{outside}"));
    }
    words.push(format!("hard-link:{path}:stolen"));
    words.push("rename:../outside/secret:stolen".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    run.all_refused(&words);
    assert!(!run.output.contains("not for agents"), "{run}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "not for agents");
    assert_eq!(fs::read_dir(bench.outside("")).unwrap().count(), 1);
}

#[test]
fn links_made_inside_lead_nowhere_new() {
    let bench = Bench::new();
    bench.write(&bench.outside("secret"), "not for agents");
    let secret = bench.outside("secret");
    let make = format!("symlink:{}:link", secret.display());
    let run = bench.probe(
        &bench.policy(),
        &[
            &make,
            "symlink:../outside:up",
            "read:link",
            "write:link",
            "read:up/secret",
            "create:up/new",
        ],
    );
    run.all_refused(&["read:link", "write:link", "read:up/secret", "create:up/new"]);
    assert_eq!(fs::read_dir(bench.outside("")).unwrap().count(), 1);
}

#[test]
fn a_link_in_the_workspace_decides_nothing_about_what_a_rule_names() {
    let bench = Bench::new();
    bench.write(&bench.outside("data/secret"), "not for agents");
    symlink("../outside/data", bench.work("data")).unwrap();
    let policy = bench.policy().allow("read_files", &["${workdir}/data/*"]);
    let run = bench.probing(&policy, &["read:data/secret"]).run();
    // Refused with the link named, or launched without what it leads to.
    if run.code() == 125 {
        assert!(run.error.contains("link"), "{run}");
    } else {
        run.refused("read:data/secret");
    }
    assert!(!run.output.contains("not for agents"), "{run}");
}

#[test]
fn links_swapped_during_launches_lead_nowhere() {
    let bench = Bench::new();
    bench.write(&bench.outside("data/file"), "not for agents");
    bench.write(&bench.work("real/file"), "for agents");
    symlink(bench.outside("data"), bench.work("fake")).unwrap();
    // What another agent could do in the same workspace: exchange a directory and a link, without end.
    let (real, fake) = (bench.work("real"), bench.work("fake"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &real, CWD, &fake, RenameFlags::EXCHANGE);
            }
        });
        let policy = bench
            .policy()
            .allow("read_files", &["${workdir}/real/*"])
            .deny("write_files", &["${workdir}/real/*"]);
        let outcome = std::panic::catch_unwind(|| {
            for _ in 0..20 {
                let run = bench
                    .probing(
                        &policy,
                        &[
                            "read:real/file",
                            "append:real/file",
                            "read:fake/file",
                            "append:fake/file",
                        ],
                    )
                    .run();
                assert!(!run.output.contains("not for agents"), "{run}");
                assert!([0, 125].contains(&run.code()), "{run}");
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    assert_eq!(
        fs::read_to_string(bench.outside("data/file")).unwrap(),
        "not for agents"
    );
}

#[test]
fn a_working_directory_swapped_during_launches_is_the_one_that_the_person_was_in() {
    let bench = Bench::new();
    bench.write(&bench.outside("mark"), "not for agents");
    bench.write(&bench.root().join("real/mark"), "for agents");
    let (real, fake) = (bench.root().join("real"), bench.root().join("fake"));
    symlink(bench.outside(""), &fake).unwrap();
    let directory = fs::File::open(&real).unwrap();
    // The directory itself, whatever its name is when the launch begins.
    let inside = format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &real, CWD, &fake, RenameFlags::EXCHANGE);
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            for _ in 0..30 {
                let run = bench
                    .agent(&bench.policy(), &["cat", "mark"])
                    .directory(Path::new(&inside))
                    .run();
                assert!(!run.output.contains("not for agents"), "{run}");
                assert!([0, 125].contains(&run.code()), "{run}");
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_denied_file_stays_covered_whatever_is_done_to_what_holds_it() {
    let bench = Bench::new();
    bench.write(&bench.work("a/b/c/secret"), "not for agents");
    bench.write(&bench.work("other/file"), "");
    symlink("a/b/c/secret", bench.work("alias")).unwrap();
    let policy = bench
        .policy()
        .deny("read_files", &["${workdir}/a/b/c/secret"])
        .deny("write_files", &["${workdir}/a/b/c/secret"])
        .deny("delete_files", &["${workdir}/a/b/c/secret"]);
    let refused = [
        "read:a/b/c/secret",
        "read:alias",
        "read:/proc/self/cwd/a/b/c/secret",
        "rename:a/b/c/secret:free",
        "rename:a/b/c:free",
        "rename:a/b:free",
        "rename:a:free",
        "exchange:a:other",
        "exchange:a/b:other",
        "exchange:a/b/c:other",
        "exchange:a/b/c/secret:other/file",
        "rename:other/file:a/b/c/secret",
        "hard-link:a/b/c/secret:free",
        "hard-link:alias:free",
        "delete:a/b/c/secret",
        "remove-directory:a/b/c",
        "unmount:a/b/c/secret",
        "move-mount:a/b/c/secret:other/file",
        "mount-bind:a:other",
        "change-mode:777:a/b/c/secret",
    ];
    let run = bench.probe(
        &policy,
        &[
            &refused[..],
            &["create:a/b/c/new", "read:free", "list:a/b/c"],
        ]
        .concat(),
    );
    for word in refused {
        if word.starts_with("hard-link:alias") {
            continue;
        }
        run.refused(word);
    }
    run.allowed("create:a/b/c/new");
    assert!(!run.output.contains("not for agents"), "{run}");
    assert_eq!(
        fs::read_to_string(bench.work("a/b/c/secret")).unwrap(),
        "not for agents"
    );
}

#[test]
fn denials_inside_of_denials_hold() {
    let bench = Bench::new();
    bench.write(&bench.work("a/b/secret"), "not for agents");
    bench.write(&bench.work("a/fixed"), "not for agents");
    let policy = bench
        .policy()
        .deny("read_files", &["${workdir}/a/b/secret", "${workdir}/a"])
        .deny("write_files", &["${workdir}/a/fixed", "${workdir}/a/b"]);
    let tries = [
        "read:a/b/secret",
        "read:a/fixed",
        "append:a/fixed",
        "list:a",
        "rename:a:b",
    ];
    bench.probe(&policy, &tries).all_refused(&tries);
}

#[test]
fn a_denied_file_is_not_reached_by_another_name_that_it_has() {
    let bench = Bench::new();
    bench.write(&bench.work("secret"), "not for agents");
    fs::hard_link(bench.work("secret"), bench.work("innocent")).unwrap();
    let policy = bench.policy().deny("read_files", &["${workdir}/secret"]);
    let run = bench
        .probing(&policy, &["read:secret", "read:innocent"])
        .run();
    // Refused at the start, or covered by both names.
    if run.code() == 125 {
        assert!(
            run.error.contains("innocent") || run.error.contains("link"),
            "{run}"
        );
    } else {
        run.all_refused(&["read:secret", "read:innocent"]);
    }
    assert!(!run.output.contains("not for agents"), "{run}");
}

#[test]
fn a_directory_that_an_earlier_agent_closed_hides_nothing_that_is_denied() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let mode = |mode| fs::set_permissions(bench.work("closed"), fs::Permissions::from_mode(mode));
    let by_path = ["${workdir}/closed/secret"];
    for (patterns, file) in [(&by_path[..], "secret"), (&[".env"], ".env")] {
        bench.write(&bench.work(&format!("closed/{file}")), "not for agents");
        let policy = bench.policy().deny("read_files", patterns);
        mode(0o000).unwrap();
        let read = format!("read:closed/{file}");
        let run = bench
            .probing(&policy, &["change-mode:755:closed", &read])
            .run();
        mode(0o755).unwrap();
        // Who owns the directory could open it again: covered all the same, or refused at the start.
        if run.code() == 125 {
            assert!(run.error.contains("closed"), "{run}");
        } else {
            run.refused(&read);
        }
        assert!(!run.output.contains("not for agents"), "{run}");
    }
}

#[test]
fn a_denied_name_is_covered_at_any_depth() {
    let bench = Bench::new();
    let deep = vec!["d"; 150].join("/");
    bench.write(&bench.work(&format!("{deep}/.env")), "not for agents");
    let read = format!("read:{deep}/.env");
    let run = bench
        .probing(&bench.policy().deny("read_files", &[".env"]), &[&read])
        .run();
    if run.code() == 0 {
        run.refused(&read);
    }
    assert!(!run.output.contains("not for agents"), "{run}");
}

#[test]
fn a_denied_name_in_a_directory_whose_name_is_no_text_stops_the_launch() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = bench.work("").join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    bench.write(&odd.join("ordinary"), "");
    let policy = bench.policy().deny("read_files", &[".env"]);
    // Such a name alone is nobody's concern.
    let run = bench.probe(&policy, &["pid"]);
    run.allowed("pid");
    bench.write(&odd.join(".env"), "not for agents");
    let run = bench.probing(&policy, &["pid"]).run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(
        run.error.contains("odd") && run.error.contains("UTF-8"),
        "{run}"
    );
}

#[test]
fn an_outside_file_with_a_name_in_the_workspace_is_not_written_unseen() {
    let bench = Bench::new();
    bench.write(&bench.outside("file"), "of the person");
    fs::hard_link(bench.outside("file"), bench.work("name")).unwrap();
    let run = bench.probing(&bench.policy(), &["append:name"]).run();
    let untouched = fs::read_to_string(bench.outside("file")).unwrap() == "of the person";
    // Kept from it, or at least told before the start that such a file is there.
    assert!(untouched || run.error.contains("hard link"), "{run}");
}

#[test]
fn the_policy_itself_is_not_the_agents_to_write() {
    let bench = Bench::new();
    let file = bench.work("policy.yaml");
    bench.write(&file, &bench.policy().to_string());
    let probe = nemoclaw_tests::program("nemoclaw-probe");
    let run = bench
        .supervisor(&[
            "run",
            "--policy",
            file.to_str().unwrap(),
            "--",
            probe.to_str().unwrap(),
            "append:policy.yaml",
            "delete:policy.yaml",
            "rename:policy.yaml:old",
            "truncate-path:policy.yaml",
            "create:new",
        ])
        .run();
    run.all_refused(&[
        "append:policy.yaml",
        "delete:policy.yaml",
        "rename:policy.yaml:old",
        "truncate-path:policy.yaml",
    ]);
    run.allowed("create:new");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        bench.policy().to_string()
    );
}

#[test]
fn policies_with_dots_are_refused() {
    let bench = Bench::new();
    for pattern in [
        "/srv/../etc/*",
        "${workdir}/../outside/*",
        "~/../root/*",
        "/proc/self/root/etc/../etc/shadow",
    ] {
        let run = bench
            .probing(&bench.policy().allow("read_files", &[pattern]), &["pid"])
            .run();
        assert_eq!(run.code(), 125, "{pattern}\n{run}");
        assert!(run.error.contains(pattern), "{run}");
    }
}

#[test]
fn rules_that_lead_through_the_kernels_magic_links_give_nothing() {
    let bench = Bench::new();
    bench.write(&bench.outside("secret"), "not for agents");
    for pattern in [
        "/proc/self/root/etc/*",
        "/proc/1/root/*",
        "/proc/self/cwd/../outside/*",
        "/dev/fd/*",
    ] {
        let run = bench
            .probing(
                &bench.policy().allow("read_files", &[pattern]),
                &["read:/etc/shadow", "read:/proc/self/root/etc/shadow"],
            )
            .run();
        if run.code() == 0 {
            run.all_refused(&["read:/etc/shadow", "read:/proc/self/root/etc/shadow"]);
        } else {
            assert_eq!(run.code(), 125, "{pattern}\n{run}");
        }
    }
}

#[test]
fn the_kernels_settings_stay_read_only_even_where_a_policy_allows_them() {
    let bench = Bench::new();
    let policy = bench
        .policy()
        .allow("read_files", &["/sys/*"])
        .allow("write_files", &["/sys/*", "/proc/*"]);
    let tries = [
        "open-write:/proc/sys/kernel/core_pattern",
        "open-write:/proc/sysrq-trigger",
        "open-write:/sys/kernel/uevent_helper",
        "open-write:/sys/power/state",
    ];
    let run = bench.probing(&policy, &tries).run();
    if run.code() == 0 {
        run.all_refused(&tries);
    } else {
        assert_eq!(run.code(), 125, "{run}");
    }
}

#[test]
fn the_persons_terminal_is_not_reached_through_pipes() {
    let bench = Bench::new();
    let terminal = nemoclaw_tests::Terminal::open(24, 80);
    let file = bench.root().join("output");
    let script = format!("exec \"$@\" < /dev/null > '{}' 2>&1", file.display());
    let live = bench
        .probing(
            &bench.policy(),
            &[
                "terminal",
                "terminal-insert",
                "open-write:/dev/tty",
                "list:/dev/pts",
            ],
        )
        .through(&["sh", "-c", &script, "sh"])
        .start_on(&terminal);
    assert_eq!(live.finish().code(), 0);
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("\"controlling\":false"), "{text}");
    for line in text
        .lines()
        .filter(|line| line.contains("terminal-insert") || line.contains("open-write"))
    {
        assert!(line.contains("\"ok\":false"), "{line}");
    }
    assert!(text.contains("[\"ptmx\"]"), "{text}");
}

#[test]
fn another_agents_files_in_tmp_and_shared_memory_are_not_seen() {
    let bench = Bench::new();
    let first = bench
        .probing(
            &bench.policy(),
            &[
                "create:/tmp/mine",
                "create:/dev/shm/mine",
                "create:ready",
                "wait-for:go",
            ],
        )
        .start();
    assert!(nemoclaw_tests::within(
        std::time::Duration::from_secs(20),
        || bench.work("ready").exists()
    ));
    let other = Bench::new();
    let run = other.probe(
        &other.policy(),
        &["read:/tmp/mine", "read:/dev/shm/mine", "processes"],
    );
    run.all_refused(&["read:/tmp/mine", "read:/dev/shm/mine"]);
    bench.write(&bench.work("go"), "");
    assert_eq!(first.finish().code(), 0);
    assert!(!Path::new("/tmp/mine").exists());
}
