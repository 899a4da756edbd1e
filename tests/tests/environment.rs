//! What comes with the agent from its caller: standard streams and what the policy passes, nothing else.

use std::fs::File;
use std::io::Write;

use nemoclaw_tests::Bench;

#[test]
fn no_descriptor_but_the_standard_three_is_inherited() {
    let bench = Bench::new();
    bench.write(&bench.outside("secret"), "not for agents");
    let secret = bench.outside("secret");
    // A careless caller: a file for reading, one for writing, a directory, at low and high numbers.
    let script = format!(
        "exec 5<'{0}' 9>>'{0}' 66<'{0}' 7</; exec \"$@\"",
        secret.display()
    );
    let run = bench
        .probing(
            &bench.policy(),
            &[
                "descriptors",
                "read:/proc/self/fd/5",
                "read:/dev/fd/66",
                "list:/proc/self/fd/7",
                "reopen-write:/proc/self/fd/9",
            ],
        )
        .through(&["bash", "-c", &script, "bash"])
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let descriptors = run.allowed("descriptors");
    let numbers: Vec<&String> = descriptors.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2"], "{descriptors}");
    run.all_refused(&[
        "read:/proc/self/fd/5",
        "read:/dev/fd/66",
        "list:/proc/self/fd/7",
        "reopen-write:/proc/self/fd/9",
    ]);
    assert!(!run.output.contains("not for agents"), "{run}");
}

#[test]
fn a_directory_as_standard_input_starts_nothing() {
    let bench = Bench::new();
    bench.write(&bench.work("secret"), "not for agents");
    let policy = bench.policy().deny("read_files", &["${workdir}/secret"]);
    let directory = std::fs::File::open(bench.work("")).unwrap();
    let run = bench.probing(&policy, &["pid"]).input(directory).run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("standard input is a directory"), "{run}");
    assert!(run.error.contains("/dev/null"), "the remedy is told\n{run}");
}

#[test]
fn no_secret_of_the_callers_environment_is_inherited() {
    let bench = Bench::new();
    let policy = bench
        .policy()
        .section("environment: {pass: [LANG, WANTED, ABSENT], set: {FIXED: \"value\", TMPDIR: \"/tmp/own\"}}");
    let secrets = [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
        ("GITHUB_TOKEN", "ghp_0123456789"),
        ("SSH_AUTH_SOCK", "/tmp/ssh-agent"),
        ("LD_PRELOAD", ""),
        ("BASH_ENV", "/tmp/evil"),
        ("NODE_OPTIONS", "--require=/tmp/evil.js"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus"),
    ];
    let mut agent = bench
        .probing(&policy, &["environment", "read:/proc/self/environ"])
        .environment("WANTED", "passed");
    for (name, value) in secrets {
        agent = agent.environment(name, value);
    }
    let run = agent.run();
    assert_eq!(run.code(), 0, "{run}");
    let inside = run.allowed("environment");
    let mut names: Vec<&str> = inside
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "FIXED", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER", "WANTED"
        ],
        "{inside}"
    );
    assert_eq!(inside["WANTED"], "passed");
    assert_eq!(inside["FIXED"], "value");
    assert_eq!(inside["TMPDIR"], "/tmp/own");
    for (_, value) in secrets.iter().filter(|(_, value)| !value.is_empty()) {
        assert!(!run.output.contains(value), "{run}");
    }
}

#[test]
fn the_agents_home_is_its_own() {
    let bench = Bench::new();
    let run = bench
        .agent(
            &bench.policy(),
            &["sh", "-c", "cd && pwd && touch ~/file && ls -A ~"],
        )
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let home = run.output.lines().next().unwrap();
    assert!(home.starts_with("/tmp/"), "{run}");
    assert!(!std::path::Path::new(home).join("file").exists());
}

#[test]
fn pipes_are_passed_through_as_they_are() {
    let bench = Bench::new();
    let mut input = tempfile::tempfile().unwrap();
    let text: String = (0..20_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    input.write_all(text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let run = bench
        .agent(&bench.policy(), &["sh", "-c", "cat; echo to the other >&2"])
        .input(input)
        .run();
    assert_eq!(run.output, text);
    assert!(run.error.contains("to the other\n"), "{}", run.error);
    assert_eq!(run.code(), 0);
}

#[test]
fn a_file_as_standard_input_is_no_way_to_write_it() {
    let bench = Bench::new();
    bench.write(&bench.outside("input"), "given");
    let input = File::open(bench.outside("input")).unwrap();
    let run = bench
        .probing(
            &bench.policy(),
            &[
                "read:/proc/self/fd/0",
                "write:/proc/self/fd/0",
                "reopen-write:/proc/self/fd/0",
            ],
        )
        .input(input)
        .run();
    run.refused("write:/proc/self/fd/0");
    run.refused("reopen-write:/proc/self/fd/0");
    assert_eq!(
        std::fs::read_to_string(bench.outside("input")).unwrap(),
        "given"
    );
}
