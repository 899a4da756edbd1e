//! What the two profiles promise, call by call.

use super::*;

#[test]
fn the_agent_profile_places_every_call_that_is_known() {
    let profile = Profile::parse(Profile::AGENT).expect("profile");
    for architecture in Architecture::ALL {
        let unplaced: Vec<_> = (0..=architecture.last_number())
            .filter_map(|number| Some((number, syscall_name(architecture, number.cast_signed())?)))
            .filter(|(number, _)| profile.entry(architecture, *number).is_none())
            .collect();
        assert_eq!(unplaced, [], "{architecture}");
    }
}

#[test]
fn what_must_never_be_allowed_is_refused_whatever_its_arguments() {
    let never = [
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "open_tree_attr",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
        "bpf",
        "perf_event_open",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "kcmp",
        "add_key",
        "request_key",
        "keyctl",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "open_by_handle_at",
        "name_to_handle_at",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "quotactl",
        "quotactl_fd",
        "settimeofday",
        "clock_settime",
        "adjtimex",
        "clock_adjtime",
        "fanotify_init",
        "fanotify_mark",
        "syslog",
        "vhangup",
        "memfd_secret",
        "process_madvise",
        "move_pages",
        "migrate_pages",
        "remap_file_pages",
        "clone3",
        "sethostname",
        "setdomainname",
        "lsm_set_self_attr",
    ];
    let mut numbers = Numbers(7);
    for profile in profiles() {
        for architecture in Architecture::ALL {
            for action in [RefusalAction::Notify, RefusalAction::Errno] {
                let filter = profile.compile(architecture, action).expect("filter");
                for name in never {
                    for _ in 0..50 {
                        let decision =
                            decide(&filter, name, std::array::from_fn(|_| numbers.next()));
                        assert_ne!(decision, ALLOW, "{} {architecture} {name}", profile.name());
                    }
                }
            }
        }
    }
}

#[test]
fn namespaces_are_refused_in_clone_and_threads_and_processes_are_not() {
    let filter = agent(RefusalAction::Notify);
    // glibc's pthread_create, posix_spawn and fork.
    for flags in [0x003d_0f00, 0x4111, 0x0120_0011] {
        assert_eq!(
            decide(&filter, "clone", [flags, 0, 0, 0, 0, 0]),
            ALLOW,
            "{flags:x}"
        );
    }
    for bit in [17, 25, 26, 27, 28, 29, 30, 13] {
        for upper in [0, 0xffff_ffff_0000_0000] {
            let flags = 0x11 | (1 << bit) | upper;
            assert_eq!(
                decide(&filter, "clone", [flags, 0, 0, 0, 0, 0]),
                NOTIFY,
                "{flags:x}"
            );
        }
    }
    assert_eq!(decide(&filter, "clone3", [0; 6]), ENOSYS);
}

#[test]
fn only_the_named_kinds_of_socket_are_allowed() {
    let filter = agent(RefusalAction::Notify);
    let (cloexec, nonblock) = (0o2_000_000, 0o4000);
    let allowed = [
        [1, 1, 0],
        [1, 2, 0],
        [1, 5, 0],
        [2, 1, 0],
        [2, 1, 6],
        [2, 2, 0],
        [2, 2, 17],
        [10, 1, 0],
        [10, 1, 6],
        [10, 2, 0],
        [10, 2, 17],
        [16, 3, 0],
        [16, 2, 0],
    ];
    for family in 0..64 {
        for kind in 0..16 {
            for protocol in [0, 1, 6, 9, 15, 17, 132, 136, 255, 262] {
                let expected = if allowed.contains(&[family, kind, protocol]) {
                    ALLOW
                } else {
                    NOTIFY
                };
                for extra in [0, cloexec, cloexec | nonblock, 0xabcd_0000_0000_0000] {
                    let arguments = [
                        family | 0xffff_0000_0000_0000,
                        kind | extra,
                        protocol,
                        0,
                        0,
                        0,
                    ];
                    assert_eq!(
                        decide(&filter, "socket", arguments),
                        expected,
                        "{arguments:x?}"
                    );
                }
            }
        }
    }
    assert_eq!(decide(&filter, "socketpair", [1, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(decide(&filter, "socketpair", [2, 1, 0, 0, 0, 0]), NOTIFY);
}

#[test]
fn requests_that_type_into_a_terminal_are_refused_whatever_the_upper_half() {
    let filter = agent(RefusalAction::Notify);
    for request in [0x5412, 0x541c, 0x541d, 0x5423, 0x5437] {
        for upper in [0, 1 << 32, 0xffff_ffff_0000_0000] {
            assert_eq!(
                decide(&filter, "ioctl", [0, request | upper, 0, 0, 0, 0]),
                NOTIFY
            );
        }
    }
    assert_eq!(decide(&filter, "ioctl", [0, 0x5413, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn arguments_that_open_a_way_round_are_refused_one_by_one() {
    let filter = agent(RefusalAction::Notify);
    let cases: [(&str, [u64; 6], u32); 20] = [
        ("sendto", [3, 0, 0, 0x2000_0000, 0, 0], NOTIFY),
        ("sendto", [3, 0, 0, 0x4000, 0, 0], ALLOW),
        ("sendmsg", [3, 0, 0x2000_4000, 0, 0, 0], NOTIFY),
        ("sendmmsg", [3, 0, 1, 0x2000_0000, 0, 0], NOTIFY),
        ("setsockopt", [3, 6, 31, 0, 0, 0], NOTIFY),
        ("setsockopt", [3, 6, 1, 0, 0, 0], ALLOW),
        ("setsockopt", [3, 1, 31, 0, 0, 0], ALLOW),
        ("mknod", [0, 0o20_666, 0x103, 0, 0, 0], NOTIFY),
        ("mknod", [0, 0o60_666, 0, 0, 0, 0], NOTIFY),
        ("mknod", [0, 0o10_644, 0, 0, 0, 0], ALLOW),
        ("mknodat", [0, 0, 0o20_000, 0, 0, 0], NOTIFY),
        ("mknodat", [0, 0, 0o100_644, 0, 0, 0], ALLOW),
        ("memfd_create", [0, 1, 0, 0, 0, 0], NOTIFY),
        ("memfd_create", [0, 0x10, 0, 0, 0, 0], NOTIFY),
        ("memfd_create", [0, 0x9, 0, 0, 0, 0], ALLOW),
        ("personality", [0x0040_0000, 0, 0, 0, 0, 0], NOTIFY),
        ("seccomp", [1, 8, 0, 0, 0, 0], NOTIFY),
        ("seccomp", [1, 1, 0, 0, 0, 0], ALLOW),
        ("prctl", [0x5961_6d61, 1, 0, 0, 0, 0], NOTIFY),
        ("prctl", [38, 1, 0, 0, 0, 0], ALLOW),
    ];
    for (name, arguments, expected) in cases {
        assert_eq!(
            decide(&filter, name, arguments),
            expected,
            "{name} {arguments:x?}"
        );
    }
}

#[test]
fn no_file_gets_the_bits_that_lend_its_owners_rights() {
    let filter = agent(RefusalAction::Notify);
    let (create, temporary, write) = (0o100, 0o20_200_000, 1);
    for bits in [0o4000, 0o2000, 0o6000] {
        for upper in [0, 0xffff_ffff_0000_0000] {
            let mode = 0o755 | bits | upper;
            for (name, arguments) in [
                ("chmod", [0, mode, 0, 0, 0, 0]),
                ("fchmod", [0, mode, 0, 0, 0, 0]),
                ("fchmodat", [0, 0, mode, 0, 0, 0]),
                ("fchmodat2", [0, 0, mode, 0, 0, 0]),
                ("creat", [0, mode, 0, 0, 0, 0]),
                ("open", [0, create | write, mode, 0, 0, 0]),
                ("openat", [0, 0, create | write, mode, 0, 0]),
                ("openat", [0, 0, temporary | write, mode, 0, 0]),
                ("mknod", [0, 0o100_000 | mode, 0, 0, 0, 0]),
                ("mknodat", [0, 0, mode, 0, 0, 0]),
            ] {
                assert_eq!(
                    decide(&filter, name, arguments),
                    NOTIFY,
                    "{name} {arguments:x?}"
                );
            }
            // Without the flags that create, the mode is whatever was in the register.
            for (name, arguments) in [
                ("open", [0, write, mode, 0, 0, 0]),
                ("openat", [0, 0, write, mode, 0, 0]),
            ] {
                assert_eq!(
                    decide(&filter, name, arguments),
                    ALLOW,
                    "{name} {arguments:x?}"
                );
            }
        }
    }
    for (name, arguments) in [
        ("chmod", [0, 0o1777, 0, 0, 0, 0]),
        ("fchmodat", [0, 0, 0o755, 0, 0, 0]),
        ("openat", [0, 0, create | write, 0o666, 0, 0]),
        ("openat", [0, 0, temporary | write, 0o600, 0, 0]),
        ("creat", [0, 0o666, 0, 0, 0, 0]),
    ] {
        assert_eq!(
            decide(&filter, name, arguments),
            ALLOW,
            "{name} {arguments:x?}"
        );
    }
    assert_eq!(decide(&filter, "openat2", [0; 6]), ENOSYS);
}

#[test]
fn the_egress_worker_may_start_threads_but_no_processes_and_signal_nobody() {
    let profile = Profile::parse(Profile::EGRESS).expect("profile");
    let filter = profile
        .compile(Architecture::X86_64, RefusalAction::Notify)
        .expect("filter");
    assert_eq!(
        decide(&filter, "clone", [0x003d_0f00, 0, 0, 0, 0, 0]),
        ALLOW
    );
    assert_eq!(
        decide(&filter, "clone", [0x0120_0011, 0, 0, 0, 0, 0]),
        NOTIFY
    );
    assert_eq!(
        decide(&filter, "clone", [0x1000_0000 | 0x003d_0f00, 0, 0, 0, 0, 0]),
        NOTIFY
    );
    for name in [
        "fork",
        "vfork",
        "kill",
        "tkill",
        "pidfd_send_signal",
        "rt_sigqueueinfo",
    ] {
        assert_eq!(decide(&filter, name, [0; 6]), NOTIFY, "{name}");
    }
    assert_eq!(decide(&filter, "tgkill", [1, 1, 9, 0, 0, 0]), NOTIFY);
    assert_eq!(decide(&filter, "tgkill", [1, 1, 6, 0, 0, 0]), ALLOW);
}
