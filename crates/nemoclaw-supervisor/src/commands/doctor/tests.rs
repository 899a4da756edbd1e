use super::*;
use crate::facts::{Person, Restrictions, fixture};

fn tried(mechanism: Mechanism, feature: &str, needed: bool) -> Tried {
    Tried {
        mechanism,
        feature: feature.to_owned(),
        needed,
        ok: true,
        detail: "works".to_owned(),
        remedy: String::new(),
    }
}

/// An ordinary user on a host that gives everything but limits.
fn host() -> HostFacts {
    let needed = [
        (Mechanism::Namespaces, "user"),
        (Mechanism::Namespaces, "mount"),
        (Mechanism::Mounts, "proc"),
        (Mechanism::Landlock, "files"),
        (Mechanism::Seccomp, "filter"),
        (Mechanism::Network, "loopback of its own"),
        (Mechanism::Processes, "pidfd"),
    ];
    let mut all: Vec<Tried> = needed
        .map(|(mechanism, feature)| tried(mechanism, feature, true))
        .to_vec();
    all.push(broken(
        tried(Mechanism::Mounts, "idmapped workdir", false),
        "mount_setattr: no",
        "use ext4",
    ));
    for limit in LIMITS {
        all.push(broken(
            tried(Mechanism::Cgroups, limit, false),
            "not delegated",
            "systemd-run --user --scope",
        ));
    }
    all.push(broken(
        tried(Mechanism::KernelHooks, "BPF programs", false),
        "not in this version",
        "",
    ));
    HostFacts {
        kernel: "6.8.0-31-generic".to_owned(),
        landlock_abi: 4,
        namespaces: ["mnt", "pid", "user"].map(str::to_owned).to_vec(),
        tried: Some(all),
        ..fixture::ordinary_user()
    }
}

fn broken(tried: Tried, why: &str, remedy: &str) -> Tried {
    Tried {
        ok: false,
        detail: why.to_owned(),
        remedy: remedy.to_owned(),
        ..tried
    }
}

/// Breaks one feature of a host.
fn without(mut host: HostFacts, mechanism: Mechanism, feature: &str) -> HostFacts {
    for one in host.tried.iter_mut().flatten() {
        if one.mechanism == mechanism && one.feature == feature {
            *one = broken(one.clone(), "EPERM", "the general remedy");
        }
    }
    host
}

fn policy(sections: &str) -> Wants {
    let text = format!(
        "agent_policy:\n  name: \"a\"\n  allowed_actions:\n    - read_files: [\"/usr/*\"]\n{sections}"
    );
    Wants::of(&Policy::parse(&text).unwrap_or_else(|errors| panic!("{errors}")))
}

#[test]
fn an_ordinary_user_without_delegation_can_launch_what_sets_no_limit() {
    let diagnosis = Diagnosis::of(&host(), &Wants::default());
    assert!(diagnosis.launchable, "{diagnosis}");
    insta::assert_snapshot!(diagnosis.to_string(), @r"
    kernel        6.8.0-31-generic
    started by    alice (uid 1000), without privilege

    namespaces    fully   user, mount
    mounts        fully   proc
    landlock      fully   files
    seccomp       fully   filter
    network       fully   loopback of its own
    processes     fully   pidfd
    cgroups       NOT
                          lacks memory: not delegated
                          lacks swap: not delegated
                          lacks cpu: not delegated
                          lacks pids: not delegated
                          lacks io: not delegated
                            remedy: systemd-run --user --scope
    kernel hooks  NOT
                          without BPF programs: not in this version

    a policy that requires every mechanism and sets no limit can be launched here by alice (uid 1000)
    ");
}

#[test]
fn limits_of_a_policy_hinder_where_they_are_required_and_only_there() {
    let wants = policy("  resources: {memory: 1GiB}\n");
    let diagnosis = Diagnosis::of(&host(), &wants);
    assert_eq!(diagnosis.hindrances, ["cgroups: memory"]);
    let wants = policy("  resources: {memory: 1GiB}\n  enforcement: {cgroups: best_effort}\n");
    assert!(Diagnosis::of(&host(), &wants).launchable);
}

#[test]
fn on_ubuntu_the_shipped_profile_is_the_remedy() {
    let mut host = without(host(), Mechanism::Namespaces, "user");
    host.restrictions = Restrictions {
        apparmor_restrict_userns: Some(1),
        apparmor_profile: Some("unconfined".to_owned()),
        ..Restrictions::default()
    };
    let diagnosis = Diagnosis::of(&host, &Wants::default());
    assert_eq!(diagnosis.hindrances, ["namespaces: user"]);
    assert!(
        diagnosis
            .to_string()
            .contains("/etc/apparmor.d/nemoclaw-supervisor"),
        "{diagnosis}"
    );
}

#[test]
fn each_needed_feature_alone_stops_a_launch() {
    for (mechanism, feature) in [
        (Mechanism::Namespaces, "mount"),
        (Mechanism::Mounts, "proc"),
        (Mechanism::Landlock, "files"),
        (Mechanism::Seccomp, "filter"),
        (Mechanism::Network, "loopback of its own"),
        (Mechanism::Processes, "pidfd"),
    ] {
        let diagnosis = Diagnosis::of(&without(host(), mechanism, feature), &Wants::default());
        assert_eq!(diagnosis.hindrances.len(), 1, "{feature}");
        assert!(!diagnosis.launchable, "{feature}");
    }
}

#[test]
fn a_mechanism_that_was_not_tried_is_not_taken_to_work() {
    let mut host = host();
    host.tried = None;
    let diagnosis = Diagnosis::of(&host, &Wants::default());
    assert!(!diagnosis.launchable);
    assert!(
        diagnosis
            .findings
            .iter()
            .all(|finding| finding.extent == Extent::Not)
    );
}

#[test]
fn root_itself_needs_mounts_that_map_ids_and_a_person_behind_sudo_does_not() {
    let mut facts = host();
    facts.privileged = true;
    assert!(Diagnosis::of(&facts, &Wants::default()).launchable);
    facts.person = Person {
        uid: 0,
        gid: 0,
        name: "root".to_owned(),
        home: "/root".to_owned(),
    };
    assert_eq!(
        Diagnosis::of(&facts, &Wants::default()).hindrances,
        ["mounts: idmapped workdir"]
    );
}

#[test]
fn kernel_hooks_hinder_only_a_policy_that_requires_them() {
    let wants = policy("  enforcement: {bpf_hooks: required}\n");
    assert_eq!(
        Diagnosis::of(&host(), &wants).hindrances,
        ["kernel hooks: BPF programs"]
    );
}

#[test]
fn text_of_the_host_cannot_steer_the_terminal() {
    let mut facts = host();
    facts.person.name = "eve\u{1b}[2J\u{202e}".to_owned();
    let text = Diagnosis::of(&facts, &Wants::default()).to_string();
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    assert!(text.contains("eve\\u{1b}[2J\\u{202e}"), "{text}");
}
