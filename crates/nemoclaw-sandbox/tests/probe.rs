//! The tries of `nemoclaw-init --probe` on the kernel that runs the tests. What a host offers differs, so what is
//! tested is that each try answers, that answers agree with each other, and that nothing is left behind.
#![expect(clippy::panic, reason = "a test stops where it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use nemoclaw_sandbox::probe::{self, Mechanism, Report, Tried};

fn main() -> io::Result<()> {
    let before = traces()?;
    let report = probe::run(Path::new("/"));
    each_try_answers_and_each_failure_has_a_remedy(&report);
    the_landlock_try_agrees_with_the_version(&report);
    namespaces_inside_need_the_user_namespace(&report);
    a_report_survives_json(&report);
    assert_eq!(traces()?, before, "a try left something behind");
    let works = report.tried.iter().filter(|one| one.ok).count();
    writeln!(
        io::stderr(),
        "probe: {works} of {} features work on this host",
        report.tried.len()
    )
}

/// What a careless try would change: mounts, namespaces, the host's name, privileges, children, cgroups.
fn traces() -> io::Result<Vec<String>> {
    let mut seen = vec![
        fs::read_to_string("/proc/self/mountinfo")?,
        fs::read_to_string("/proc/sys/kernel/hostname")?,
        fs::read_to_string("/proc/thread-self/children")?,
        format!("{:?}", fs::metadata("/.nemoclaw-try").is_ok()),
    ];
    let status = fs::read_to_string("/proc/self/status")?;
    seen.extend(
        status
            .lines()
            .filter(|line| {
                line.starts_with("NoNewPrivs")
                    || line.starts_with("Seccomp")
                    || line.starts_with("Cap")
            })
            .map(str::to_owned),
    );
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        seen.push(
            fs::read_link(format!("/proc/self/ns/{kind}"))?
                .display()
                .to_string(),
        );
    }
    for tree in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let entries = fs::read_dir(tree.path()).into_iter().flatten().flatten();
        seen.extend(
            entries
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| {
                    name.starts_with("nemoclaw-try")
                        && name.contains(&format!(".{}.", std::process::id()))
                }),
        );
    }
    Ok(seen)
}

fn each_try_answers_and_each_failure_has_a_remedy(report: &Report) {
    let mut names = BTreeSet::new();
    for one in &report.tried {
        assert!(
            names.insert((one.mechanism, one.feature.clone())),
            "tried twice: {one:?}"
        );
        assert!(!one.detail.is_empty(), "{one:?}");
        assert_eq!(one.ok, one.remedy.is_empty(), "{one:?}");
        // These mean that the try itself is broken, whatever the host.
        for broken in ["no answer within", "was killed", "cut short"] {
            assert!(!one.detail.contains(broken), "{one:?}");
        }
    }
}

fn the_landlock_try_agrees_with_the_version(report: &Report) {
    let files = find(report, Mechanism::Landlock, "files");
    assert_eq!(files.ok, probe::landlock_abi() > 0, "{files:?}");
    let truncation = find(report, Mechanism::Landlock, "renames and truncation");
    assert_eq!(truncation.ok, probe::landlock_abi() >= 3, "{truncation:?}");
}

fn namespaces_inside_need_the_user_namespace(report: &Report) {
    if !find(report, Mechanism::Namespaces, "user").ok {
        assert!(!find(report, Mechanism::Namespaces, "mount").ok);
        assert!(!find(report, Mechanism::Mounts, "proc").ok);
    }
}

fn a_report_survives_json(report: &Report) {
    let again =
        serde_json::to_string(report).and_then(|text| serde_json::from_str::<Report>(&text));
    assert!(again.is_ok_and(|again| again == *report));
}

fn find<'a>(report: &'a Report, mechanism: Mechanism, feature: &str) -> &'a Tried {
    report
        .tried
        .iter()
        .find(|one| one.mechanism == mechanism && one.feature == feature)
        .unwrap_or_else(|| panic!("{mechanism:?} {feature} was not tried"))
}
