//! The exit status: the agent's own, or why there was none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nemoclaw_tests::{Bench, program};

#[test]
fn the_status_is_the_agents_own() {
    let bench = Bench::new();
    for status in [0, 1, 7, 125, 255] {
        let run = bench
            .probing(&bench.policy(), &[&format!("exit:{status}")])
            .run();
        assert_eq!(run.code(), status, "{run}");
        assert_eq!(run.output, "");
    }
}

#[test]
fn a_signal_that_ends_the_agent_is_told_as_128_and_its_number() {
    let bench = Bench::new();
    for (signal, number) in [
        ("TERM", 15),
        ("KILL", 9),
        ("ABRT", 6),
        ("HUP", 1),
        ("ALRM", 14),
    ] {
        let run = bench
            .probing(&bench.policy(), &[&format!("die:{signal}")])
            .run();
        assert_eq!(run.status.code(), Some(128 + number), "{signal}\n{run}");
    }
}

#[test]
fn a_program_that_is_not_there_is_127() {
    let bench = Bench::new();
    for name in [
        "no-such-program",
        "/no/such/program",
        "./no-such-program",
        "/usr/bin/no-such-program",
    ] {
        let run = bench.agent(&bench.policy(), &[name]).run();
        assert_eq!(run.code(), 127, "{name}\n{run}");
        assert!(run.error.contains(name), "{run}");
    }
}

#[test]
fn a_program_that_may_not_be_executed_is_126_with_the_edit_that_allows_it() {
    let bench = Bench::new();
    bench.write(&bench.work("script"), "#!/bin/sh\necho ran\n");
    fs::set_permissions(bench.work("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = bench.agent(&bench.policy(), &["./script"]).run();
    assert_eq!(run.code(), 126, "{run}");
    assert!(run.error.contains("execute_code"), "{run}");
    assert!(!run.output.contains("ran"), "{run}");
}

#[test]
fn a_file_without_the_permission_to_be_executed_is_126() {
    let bench = Bench::new();
    bench.write(&bench.work("data"), "text");
    let policy = bench.policy().allow("execute_code", &["${workdir}/data"]);
    let run = bench.agent(&policy, &["./data"]).run();
    assert_eq!(run.code(), 126, "{run}");
}

#[test]
fn a_script_whose_interpreter_is_missing_is_told_so() {
    let bench = Bench::new();
    bench.write(&bench.work("script"), "#!/no/such/interpreter\n");
    fs::set_permissions(bench.work("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let policy = bench.policy().allow("execute_code", &["${workdir}/script"]);
    let run = bench.agent(&policy, &["./script"]).run();
    assert!([126, 127].contains(&run.code()), "{run}");
    assert!(run.error.contains("/no/such/interpreter"), "{run}");
}

#[test]
fn a_policy_with_mistakes_is_125_and_every_mistake_is_told_with_its_place() {
    let bench = Bench::new();
    let file = bench.root().join("wrong.yaml");
    bench.write(
        &file,
        "agent_policy:\n  version: 1\n  name: \"a\"\n  allowed_actions:\n    - raed_files: [\"/srv/*\"]\n    \
         - write_files: [\"relative/path\"]\n  secrets: {TOKEN: {from: env}}\n",
    );
    let run = bench
        .supervisor(&["run", "--policy", file.to_str().unwrap(), "--", "true"])
        .run();
    assert_eq!(run.code(), 125, "{run}");
    for expected in [
        "wrong.yaml:5",
        "read_files",
        "wrong.yaml:6",
        "wrong.yaml:7",
        "secrets",
    ] {
        assert!(run.error.contains(expected), "`{expected}`\n{run}");
    }
}

#[test]
fn a_policy_that_is_not_there_is_125() {
    let bench = Bench::new();
    let run = bench
        .supervisor(&["run", "--policy", "/no/such/policy.yaml", "--", "true"])
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("/no/such/policy.yaml"), "{run}");
}

#[test]
fn a_working_directory_that_the_policy_does_not_allow_is_125() {
    let bench = Bench::new();
    let policy = nemoclaw_tests::Policy::new(&bench.name)
        .allow("execute_code", &["/usr/bin/*"])
        .enforce("cgroups", "best_effort")
        .section(&format!(
            "audit: {{path: \"{}\"}}",
            bench.root().join("audit").display()
        ));
    let run = bench.agent(&policy, &["/usr/bin/true"]).run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("working directory"), "{run}");
}

#[test]
fn without_init_beside_it_the_supervisor_says_so() {
    let bench = Bench::new();
    let alone = bench.root().join("nemoclaw-supervisor");
    fs::copy(program("nemoclaw-supervisor"), &alone).unwrap();
    let file = bench.root().join("policy.yaml");
    bench.write(&file, &bench.policy().to_string());
    let run = bench
        .supervisor(&["run", "--policy", file.to_str().unwrap(), "--", "true"])
        .through(&[
            "sh",
            "-c",
            "shift; exec ./../nemoclaw-supervisor \"$@\"",
            "sh",
        ])
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("nemoclaw-init"), "{run}");
}

#[test]
fn a_key_file_that_is_a_pipe_is_125_and_not_waited_for() {
    let bench = Bench::new();
    let pipe = bench.root().join("key");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let policy = bench.policy().section(&format!(
        "models: {{upstream: {{url: \"http://127.0.0.1:9/v1\", key: {{from: file, path: \"{}\"}}}}}}",
        pipe.display()
    ));
    let run = bench
        .probing(&policy, &["pid"])
        .limit(std::time::Duration::from_secs(20))
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("no regular file"), "{run}");
}
