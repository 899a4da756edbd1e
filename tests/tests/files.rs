//! Files: what the policy does not name does not exist, and what it names is given no further than it says.

use std::fs;
use std::path::Path;

use nemoclaw_tests::{Bench, Policy};

/// A word for the probe: what to try, on which path.
fn on(what: &str, path: &Path) -> String {
    format!("{what}:{}", path.display())
}

#[test]
fn the_working_directory_can_be_read_changed_and_cleared() {
    let bench = Bench::new();
    bench.write(&bench.work("given"), "from the person");
    let run = bench.probe(
        &bench.policy(),
        &[
            "directory",
            "read:given",
            "write:given",
            "create:new",
            "append:new",
            "rename:new:renamed",
            "symlink:renamed:link",
            "read:link",
            "hard-link:renamed:second",
            "delete:second",
            "make-directory:sub",
            "rename:renamed:sub/renamed",
            "truncate:sub/renamed",
            "delete:sub/renamed",
            "remove-directory:sub",
            "make-fifo:fifo",
            "list:.",
        ],
    );
    assert_eq!(
        run.allowed("directory"),
        bench.work("").to_string_lossy().trim_end_matches('/')
    );
    assert_eq!(run.allowed("read:given"), "from the person");
    for done in run.tries() {
        assert!(done.ok, "{done:?}\n{run}");
    }
    assert_eq!(
        run.allowed("list:."),
        serde_json::json!(["fifo", "given", "link"])
    );
    assert_eq!(
        fs::read_to_string(bench.work("given")).unwrap(),
        "written by the probe\n"
    );
}

#[test]
fn what_no_rule_names_is_not_there() {
    let bench = Bench::new();
    bench.write(&bench.outside("secret"), "not for agents");
    let secret = on("read", &bench.outside("secret"));
    let beside = on("create", &bench.outside("new"));
    let tries = [
        "read:/etc/shadow",
        "read:/etc/sudoers",
        "read:/etc/ssh/sshd_config",
        "list:/root",
        "list:/home",
        "list:/var/log",
        "list:/boot",
        "list:/sys",
        "list:/run",
        "read:/proc/kcore",
        "read:/dev/mem",
        "read:/dev/sda",
        "read:/dev/vda",
        "list:/dev/mapper",
        "create:/etc/new",
        "create:/usr/bin/new",
        "create:/new",
        "make-directory:/new",
        &secret,
        &beside,
        "create:../outside/new",
        "list:..",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    // `list:..` shows the empty directory above the workspace and not what is beside it.
    let above = run.find("list:..");
    assert!(
        !above.ok || above.detail == serde_json::json!(["work"]),
        "{above:?}"
    );
    run.all_refused(&tries[..tries.len() - 1]);
    assert_eq!(fs::read_dir(bench.outside("")).unwrap().count(), 1);
}

#[test]
fn the_home_and_its_dot_files_are_not_there() {
    let bench = Bench::new();
    let home = std::env::var("HOME").unwrap();
    let secret = tempfile::Builder::new()
        .prefix(".nemoclaw-secret-")
        .tempfile_in(&home)
        .unwrap();
    fs::write(secret.path(), "a token").unwrap();
    let tries = [
        on("read", secret.path()),
        on("stat", secret.path()),
        on("write", secret.path()),
        format!("list:{home}/.ssh"),
        format!("create:{home}/.bashrc-new"),
        format!("create:{home}/.ssh/authorized_keys"),
    ];
    let words: Vec<&str> = tries.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    run.all_refused(&words);
    assert_eq!(fs::read_to_string(secret.path()).unwrap(), "a token");
    assert!(!Path::new(&home).join(".bashrc-new").exists());
}

#[test]
fn a_denied_file_in_an_allowed_tree_is_covered() {
    let bench = Bench::new();
    bench.write(&bench.work("open"), "open");
    bench.write(&bench.work("secret"), "hidden");
    bench.write(&bench.work("deep/er/.env"), "TOKEN=hidden");
    bench.write(&bench.work("keys/id_rsa"), "hidden");
    let policy = bench
        .policy()
        .deny(
            "read_files",
            &["${workdir}/secret", ".env", "${workdir}/keys"],
        )
        .deny(
            "write_files",
            &["${workdir}/secret", ".env", "${workdir}/keys"],
        )
        .deny(
            "delete_files",
            &["${workdir}/secret", ".env", "${workdir}/keys"],
        );
    let refused = [
        "read:secret",
        "write:secret",
        "append:secret",
        "truncate-path:secret",
        "delete:secret",
        "rename:secret:elsewhere",
        "rename:open:secret",
        "hard-link:secret:elsewhere",
        "exchange:open:secret",
        "reopen-write:secret",
        "read:deep/er/.env",
        "delete:deep/er/.env",
        "rename:deep/er:deep/other",
        "rename:deep:other",
        "read:keys/id_rsa",
        "list:keys",
        "create:keys/new",
        "rename:keys:other",
        "remove-directory:keys",
        "unmount:secret",
        "unmount:keys",
    ];
    let mut tries = refused.to_vec();
    tries.push("read:open");
    let run = bench.probe(&policy, &tries);
    run.all_refused(&refused);
    assert_eq!(run.allowed("read:open"), "open");
    assert!(!run.output.contains("hidden"), "{run}");
    assert_eq!(fs::read_to_string(bench.work("secret")).unwrap(), "hidden");
    assert_eq!(
        fs::read_to_string(bench.work("keys/id_rsa")).unwrap(),
        "hidden"
    );
}

#[test]
fn what_is_denied_to_be_written_inside_a_writable_tree_stays_as_it_is() {
    let bench = Bench::new();
    bench.write(&bench.work("config"), "as given");
    bench.write(&bench.work(".git/hooks/pre-commit"), "as given");
    bench.write(&bench.work(".git/index"), "changes");
    let fixed = ["${workdir}/config", "${workdir}/.git/hooks"];
    let policy = bench
        .policy()
        .deny("write_files", &fixed)
        .deny("delete_files", &fixed);
    let refused = [
        "write:config",
        "append:config",
        "truncate-path:config",
        "delete:config",
        "rename:config:other",
        "rename:.git/index:config",
        "change-mode:777:config",
        "reopen-write:config",
        "remount-writable:config",
        "write:.git/hooks/pre-commit",
        "create:.git/hooks/post-commit",
        "delete:.git/hooks/pre-commit",
        "rename:.git/hooks:.git/old",
        "rename:.git:old",
        "symlink:x:.git/hooks/link",
    ];
    let allowed = [
        "read:config",
        "read:.git/hooks/pre-commit",
        "write:.git/index",
        "create:.git/new",
    ];
    let run = bench.probe(&policy, &[&refused[..], &allowed[..]].concat());
    run.all_refused(&refused);
    for word in allowed {
        run.allowed(word);
    }
    assert_eq!(
        fs::read_to_string(bench.work("config")).unwrap(),
        "as given"
    );
    assert_eq!(
        fs::read_to_string(bench.work(".git/hooks/pre-commit")).unwrap(),
        "as given"
    );
}

#[test]
fn a_tree_that_may_only_be_read_is_only_read() {
    let bench = Bench::new();
    bench.write(&bench.outside("data/file"), "data");
    let data = bench.outside("data");
    let policy = bench
        .policy()
        .allow("read_files", &[&format!("{}/*", data.display())]);
    let file = data.join("file");
    let new = data.join("new");
    let read = on("read", &file);
    let refused = [
        on("write", &file),
        on("append", &file),
        on("truncate-path", &file),
        on("reopen-write", &file),
        on("delete", &file),
        on("change-mode:777", &file),
        on("create", &new),
        on("make-directory", &new),
        on("symlink:x", &new),
        format!("rename:{}:{}", file.display(), new.display()),
        format!("hard-link:{}:stolen", file.display()),
        on("execute", &file),
        on("remount-writable", &data),
    ];
    let mut words: Vec<&str> = refused.iter().map(String::as_str).collect();
    let count = words.len();
    words.push(&read);
    let run = bench.probe(&policy, &words);
    run.all_refused(&words[..count]);
    assert_eq!(run.allowed(&read), "data");
    assert_eq!(fs::read_to_string(&file).unwrap(), "data");
}

#[test]
fn an_allowance_to_write_does_not_allow_a_deletion() {
    let bench = Bench::new();
    bench.write(&bench.work("file"), "old");
    let probe = nemoclaw_tests::program("nemoclaw-probe");
    let probe = probe.to_str().unwrap();
    let policy = Policy::new(&bench.name)
        .allow("read_files", &["${workdir}/*", probe])
        .allow("write_files", &["${workdir}/*"])
        .allow("execute_code", &[probe])
        .enforce("cgroups", "best_effort")
        .section(&format!(
            "audit: {{path: \"{}\"}}",
            bench.root().join("audit").display()
        ));
    let run = bench.probe(
        &policy,
        &[
            "write:file",
            "create:new",
            "make-directory:sub",
            "delete:file",
            "rename:file:moved",
            "remove-directory:sub",
        ],
    );
    for word in ["write:file", "create:new", "make-directory:sub"] {
        run.allowed(word);
    }
    run.all_refused(&["delete:file", "rename:file:moved", "remove-directory:sub"]);
    assert!(bench.work("file").exists());
}

#[test]
fn temporary_files_are_the_agents_own() {
    let bench = Bench::new();
    let on_host = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let name = format!("nemoclaw-inside-{}", std::process::id());
    let (inside, shared) = (
        format!("create:/tmp/{name}"),
        format!("create:/dev/shm/{name}"),
    );
    let of_host = on("read", on_host.path());
    let run = bench.probe(
        &bench.policy(),
        &[&inside, &shared, &of_host, "list:/tmp", "create:/var/tmp/x"],
    );
    run.allowed(&inside);
    run.allowed(&shared);
    run.refused_as(&of_host, &["ENOENT"]);
    run.refused("create:/var/tmp/x");
    assert!(!Path::new("/tmp").join(&name).exists());
    assert!(!Path::new("/dev/shm").join(&name).exists());
}

#[test]
fn what_the_agent_writes_is_not_executed() {
    let bench = Bench::new();
    let copy = bench.work("true");
    let words = [
        on("copy-program", &copy),
        "copy-program:/tmp/true".to_owned(),
        "copy-program:/dev/shm/true".to_owned(),
        on("execute-through-loader", &copy),
        "execute-through-loader:/tmp/true".to_owned(),
        "memory-program:plain".to_owned(),
        "memory-program:sealed".to_owned(),
        "execute:/usr/bin/true".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    run.all_refused(&[words[0], words[1], words[2], words[5], words[6]]);
    for word in &words[3..5] {
        // The loader runs and cannot map the file, which is its own error.
        assert!(!run.find(word).ok, "{run}");
    }
    run.allowed("execute:/usr/bin/true");
}

#[test]
fn only_programs_that_the_policy_names_are_executed() {
    let bench = Bench::new();
    let probe = nemoclaw_tests::program("nemoclaw-probe");
    let probe = probe.to_str().unwrap();
    let policy = Policy::new(&bench.name)
        .allow("read_files", &["${workdir}/*", probe])
        .allow("execute_code", &[probe, "true"])
        .enforce("cgroups", "best_effort")
        .section(&format!(
            "audit: {{path: \"{}\"}}",
            bench.root().join("audit").display()
        ));
    let run = bench.probe(
        &policy,
        &[
            "execute:/usr/bin/true",
            "execute:/usr/bin/env",
            "execute:/bin/sh",
        ],
    );
    run.allowed("execute:/usr/bin/true");
    run.refused_as("execute:/usr/bin/env", &["EACCES", "EPERM"]);
    run.refused_as("execute:/bin/sh", &["EACCES", "EPERM"]);
}

#[test]
fn the_smallest_policy_does_what_the_readme_shows() {
    let bench = Bench::new();
    // With a log of the test's own, which is not left on the machine.
    let text = fs::read_to_string(nemoclaw_tests::shipped_policy("minimal.yaml")).unwrap();
    let audit = bench.root().join("audit");
    let policy = bench.root().join("minimal.yaml");
    bench.write(
        &policy,
        &format!("{text}\n  audit: {{path: \"{}\"}}\n", audit.display()),
    );
    let run = bench
        .supervisor(&[
            "run",
            "--policy",
            policy.to_str().unwrap(),
            "--",
            "sh",
            "-c",
            "echo hello > note; cat note; cat /etc/shadow",
        ])
        .run();
    assert_eq!(run.output, "hello\n", "{run}");
    assert_eq!(run.code(), 1, "{run}");
    assert!(run.error.contains("/etc/shadow: No such file"), "{run}");
    assert_eq!(fs::read_to_string(bench.work("note")).unwrap(), "hello\n");
}
