//! Decisions: which rule decides, which others spoke, and what would change it.

use nemoclaw_policy::{Action, Bindings, BoundPolicy, Decision, Edit, Policy, Verdict};

const BINDINGS: Bindings<'static> = Bindings {
    home: "/home/ada",
    workdir: "/home/ada/project",
};

fn bound(lists: &str) -> BoundPolicy {
    let policy = Policy::parse(&format!("name: x\n{lists}")).unwrap_or_else(|wrong| fail(&wrong));
    policy.bind(&BINDINGS).unwrap_or_else(|wrong| fail(&wrong))
}

fn action(text: &str) -> Action {
    text.parse().unwrap_or_else(|wrong| fail(&wrong))
}

#[expect(clippy::panic, reason = "a test's own text is wrong")]
fn fail<T>(wrong: &dyn std::fmt::Display) -> T {
    panic!("{wrong}")
}

fn verdict(policy: &BoundPolicy, text: &str) -> Verdict {
    policy.evaluate(&action(text)).verdict
}

/// The deciding rule and the runners-up by their lines, and the reason.
fn told(decision: &Decision) -> String {
    let line = |line: Option<usize>| line.map_or("built in".to_owned(), |line| line.to_string());
    let runners: Vec<String> = decision
        .runners_up
        .iter()
        .map(|rule| line(rule.line))
        .collect();
    format!(
        "{} by {} before [{}]: {}",
        decision.verdict.word(),
        decision
            .rule
            .as_ref()
            .map_or("no rule".to_owned(), |rule| line(rule.line)),
        runners.join(", "),
        decision.reason
    )
}

#[test]
fn a_denial_beats_an_approval_beats_an_allowance_whatever_the_order() {
    let allowed = "allowed_actions:\n  - read_files: [\"/a/*\"]\n";
    let asked = "approval_required:\n  - read_files: [\"/a/b/*\"]\n";
    let denied = "denied_actions:\n  - read_files: [\"/a/*/c\"]\n";
    for order in [
        [allowed, asked, denied],
        [allowed, denied, asked],
        [asked, allowed, denied],
        [asked, denied, allowed],
        [denied, allowed, asked],
        [denied, asked, allowed],
    ] {
        let policy = bound(&order.concat());
        assert_eq!(verdict(&policy, "read:/a/x"), Verdict::Allow, "{order:?}");
        assert_eq!(verdict(&policy, "read:/a/b/x"), Verdict::Ask, "{order:?}");
        assert_eq!(verdict(&policy, "read:/a/b/c"), Verdict::Deny, "{order:?}");
        assert_eq!(
            verdict(&policy, "read:/a/b/c/d"),
            Verdict::Deny,
            "{order:?}"
        );
        assert_eq!(verdict(&policy, "read:/b"), Verdict::Deny, "{order:?}");
    }
}

#[test]
fn the_published_policy_decides_as_it_reads() {
    let policy = Policy::parse(include_str!("published.yaml"))
        .unwrap()
        .bind(&BINDINGS)
        .unwrap();
    let all: Vec<String> = [
        "read:/workspace",
        "read:/workspace/data/sales.csv",
        "write:/workspace/data/sales.csv",
        "delete:/workspace/data/sales.csv",
        "write:/production/table",
        "delete:/system/core",
        "execute:/usr/bin/python",
        "execute:/opt/python",
        "execute:/usr/bin/curl",
        "connect:data.company.com:443",
        "connect:data.company.com:22",
        "connect:company.com:443",
        "connect:example.org:443",
        "connect:169.254.169.254:80",
        "connect:localhost:8080",
        "read:/etc/shadow",
    ]
    .into_iter()
    .map(|text| format!("{text}: {}", told(&policy.evaluate(&action(text)))))
    .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    read:/workspace: allow by 4 before []: allowed by `read_files: /workspace/*` (under `allowed_actions`, line 4)
    read:/workspace/data/sales.csv: allow by 4 before []: allowed by `read_files: /workspace/*` (under `allowed_actions`, line 4)
    write:/workspace/data/sales.csv: deny by no rule before []: no rule allows it; `- write_files: ["/workspace/data/sales.csv"]` under `allowed_actions` would
    delete:/workspace/data/sales.csv: deny by no rule before []: no rule allows it; `- delete_files: ["/workspace/data/sales.csv"]` under `allowed_actions` would
    write:/production/table: ask by 11 before []: held for approval by `write_files: /production/*` (under `approval_required`, line 11)
    delete:/system/core: deny by 8 before []: denied by `delete_files: /system/*` (under `denied_actions`, line 8)
    execute:/usr/bin/python: allow by 5 before []: allowed by `execute_code: python` (under `allowed_actions`, line 5)
    execute:/opt/python: deny by no rule before []: no rule allows it; `- execute_code: ["/opt/python"]` under `allowed_actions` would
    execute:/usr/bin/curl: deny by no rule before []: no rule allows it; `- execute_code: ["/usr/bin/curl"]` under `allowed_actions` would
    connect:data.company.com:443: allow by 6 before []: allowed by `network_access: *.company.com` (under `allowed_actions`, line 6)
    connect:data.company.com:22: deny by 9 before []: denied by `external_network: *` (under `denied_actions`, line 9)
    connect:company.com:443: deny by 9 before []: denied by `external_network: *` (under `denied_actions`, line 9)
    connect:example.org:443: deny by 9 before []: denied by `external_network: *` (under `denied_actions`, line 9)
    connect:169.254.169.254:80: deny by 9 before []: denied by `external_network: *` (under `denied_actions`, line 9)
    connect:localhost:8080: deny by 9 before []: denied by `external_network: *` (under `denied_actions`, line 9)
    read:/etc/shadow: deny by no rule before []: no rule allows it; `- read_files: ["/etc/shadow"]` under `allowed_actions` would
    "#);
}

#[test]
fn the_more_specific_of_two_equals_is_the_one_that_is_told() {
    let policy = bound(
        "allowed_actions:
  - read_files: [\"/a/*\"]
  - read_files: [\"/a/b/*\"]
  - read_files: [\"/a/b/*.txt\"]
  - read_files: [\"/a/b/c.txt\"]
  - read_files: [\"*.txt\"]
  - read_files: [{paths: [\"/a/b/c.txt\"], reason: \"said twice\"}]
",
    );
    let decision = policy.evaluate(&action("read:/a/b/c.txt"));
    insta::assert_snapshot!(told(&decision), @"allow by 6 before [8, 5, 4, 3, 7]: allowed by `read_files: /a/b/c.txt` (under `allowed_actions`, line 6)");
    let decision = policy.evaluate(&action("read:/a/b"));
    insta::assert_snapshot!(told(&decision), @"allow by 4 before [3]: allowed by `read_files: /a/b/*` (under `allowed_actions`, line 4)");
}

#[test]
fn external_network_speaks_of_what_no_network_access_names() {
    let policy = bound(
        "allowed_actions:
  - network_access: [\"*.company.com\", \"10.0.0.0/8:5432\"]
denied_actions:
  - external_network: [\"*\"]
  - network_access: [\"secret.company.com\"]
",
    );
    for (text, line) in [
        ("connect:data.company.com:443", 3),
        ("connect:secret.company.com:443", 6),
        ("connect:secret.company.com:9999", 6),
        ("connect:10.1.2.3:5432", 3),
        ("connect:data.company.com:22", 5),
        ("connect:10.1.2.3:80", 5),
        ("connect:elsewhere.example:443", 5),
        ("connect:company.com:443", 5),
    ] {
        let decision = policy.evaluate(&action(text));
        assert_eq!(
            decision.rule.as_ref().and_then(|rule| rule.line),
            Some(line),
            "{text}"
        );
    }
    assert_eq!(
        verdict(&policy, "connect:data.company.com:443"),
        Verdict::Allow
    );
    assert_eq!(verdict(&policy, "connect:10.1.2.3:5432"), Verdict::Allow);
    assert_eq!(
        verdict(&policy, "connect:secret.company.com:443"),
        Verdict::Deny
    );
}

#[test]
fn a_trailing_star_is_everything_beneath_and_one_in_the_middle_is_one_name() {
    let policy = bound(
        "allowed_actions:
  - read_files: [\"/a/*\", \"/b/*/c\", \"/d/**/e\", \"/f/*.txt\"]
  - write_files: [\"/a/*\"]
",
    );
    for (text, allowed) in [
        ("read:/a", true),
        ("read:/a/x", true),
        ("read:/a/x/y/z", true),
        ("read:/ab", false),
        // Listing a directory is not renaming it.
        ("write:/a", false),
        ("write:/a/x/y/z", true),
        ("read:/b/x/c", true),
        ("read:/b/x/y/c", false),
        ("read:/b/c", false),
        ("read:/d/e", true),
        ("read:/d/x/y/e", true),
        ("read:/d/x/y", false),
        ("read:/f/x.txt", true),
        ("read:/f/x/y.txt", false),
    ] {
        let expected = if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
}

#[test]
fn a_bare_name_is_a_file_at_any_depth_and_what_is_in_it() {
    let policy = bound(
        "allowed_actions:
  - read_files: [\"/a/*\"]
denied_actions:
  - read_files: [\".env\", \"*.pem\", \"id_*\"]
",
    );
    for (text, allowed) in [
        ("read:/a/.env", false),
        ("read:/a/b/c/.env", false),
        ("read:/a/.env/x", false),
        ("read:/a/.envrc", true),
        ("read:/a/x.env", true),
        ("read:/a/key.pem", false),
        ("read:/a/key.pem.txt", true),
        ("read:/a/id_rsa", false),
        ("read:/a/my_id_rsa", true),
    ] {
        let expected = if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
}

#[test]
fn an_abbreviation_ends_at_a_component() {
    let policy = bound(
        "allowed_actions:
  - read_files: [\"/home/*\", \"${workdir}/*\"]
denied_actions:
  - read_files: [\"~/.ssh\", \"~/.aws/*\"]
",
    );
    for (text, allowed) in [
        ("read:/home/ada/.ssh", false),
        ("read:/home/ada/.ssh/id_ed25519", false),
        ("read:/home/ada/.sshfoo", true),
        ("read:/home/ada/.ssh.bak/id", true),
        ("read:/home/adam/.ssh/id", true),
        ("read:/home/ada/.aws", false),
        ("read:/home/ada/.aws/credentials", false),
        ("read:/home/ada/.aws2", true),
        ("read:/home/ada/project/x", true),
    ] {
        let expected = if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
}

#[test]
fn each_kind_of_access_needs_its_own_allowance() {
    let policy = bound(
        "allowed_actions:
  - write_files: [\"/a/*\"]
  - execute_code: [\"/b/*\"]
",
    );
    assert_eq!(verdict(&policy, "write:/a/x"), Verdict::Allow);
    for text in [
        "delete:/a/x",
        "read:/a/x",
        "execute:/a/x",
        "read:/b/x",
        "write:/b/x",
    ] {
        assert_eq!(verdict(&policy, text), Verdict::Deny, "{text}");
    }
}

#[test]
fn a_program_by_name_is_allowed_on_the_path_and_withheld_everywhere() {
    let policy = bound(
        "environment: {set: {PATH: \"/opt/tools:/usr/bin\"}}
allowed_actions:
  - execute_code: [\"node\", \"python\", \"/work/*\"]
denied_actions:
  - execute_code: [\"python\"]
",
    );
    for (text, allowed) in [
        ("execute:/usr/bin/node", true),
        ("execute:/opt/tools/node", true),
        ("execute:/opt/node", false),
        ("execute:/usr/bin/node/x", false),
        ("execute:/work/node", true),
        ("execute:/work/python", false),
        ("execute:/usr/bin/python", false),
        ("execute:/work/python3", true),
    ] {
        let expected = if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        assert_eq!(verdict(&policy, text), expected, "{text}");
    }
}

#[test]
fn nobody_reaches_the_record_or_changes_the_kernel() {
    let policy = bound(
        "audit: {path: \"~/audit\"}
allowed_actions:
  - read_files: [\"/home/*\", \"/proc/*\", \"/sys/*\"]
  - write_files: [\"/home/*\", \"/proc/*\", \"/sys/*\"]
",
    );
    assert_eq!(verdict(&policy, "read:/home/ada/x"), Verdict::Allow);
    assert_eq!(verdict(&policy, "read:/sys/kernel"), Verdict::Allow);
    for text in [
        "read:/home/ada/audit",
        "read:/home/ada/audit/log",
        "write:/home/ada/audit/log",
        "write:/proc/sys/kernel/core_pattern",
        "write:/sys/power/state",
    ] {
        let decision = policy.evaluate(&action(text));
        assert_eq!(decision.verdict, Verdict::Deny, "{text}");
        assert_eq!(decision.rule.unwrap().line, None, "{text}");
        assert!(
            policy
                .edits(&action(text))
                .unwrap_err()
                .contains("every policy"),
            "{text}"
        );
    }
}

#[test]
fn an_allowance_to_change_everything_is_refused_whatever_it_stands_for() {
    let policy = Policy::parse(
        "name: x\nallowed_actions: [write_files: [\"${workdir}/*\"], delete_files: [\"~/**/*\"]]",
    )
    .unwrap();
    assert!(policy.bind(&BINDINGS).is_ok());
    let root = Bindings {
        home: "/",
        workdir: "/",
    };
    insta::assert_snapshot!(policy.bind(&root).unwrap_err(), @r#"
    error: `write_files: ${workdir}/*` allows it everywhere, because it stands for `/*` here
     --> line 2, column 33
      |
    2 | allowed_actions: [write_files: ["${workdir}/*"], delete_files: ["~/**/*"]]
      |                                 ^^^^^^^^^^^^^^
      = hint: start the agent in a directory of its own

    error: `delete_files: ~/**/*` allows it everywhere, because it stands for `/*` here
     --> line 2, column 65
      |
    2 | allowed_actions: [write_files: ["${workdir}/*"], delete_files: ["~/**/*"]]
      |                                                                 ^^^^^^^^
      = hint: start the agent in a directory of its own
    "#);
    for (home, workdir) in [
        ("home", "/w"),
        ("/h", "w/"),
        ("/h/../x", "/w"),
        ("/h", "/w/"),
    ] {
        assert!(
            policy.bind(&Bindings { home, workdir }).is_err(),
            "{home} {workdir}"
        );
    }
}

#[test]
fn the_edits_that_would_allow_an_action_are_told() {
    let policy = bound(
        "audit: {path: \"/audit\"}
allowed_actions:
  - read_files: [\"/a/*\"]
denied_actions:
  - read_files: [\"/a/b/*\", \"/a/b/c\", \"/x/y\"]
  - external_network: [\"*\"]
  - network_access: [\"bad.example\"]
approval_required:
  - read_files: [\"/a/b\"]
",
    );
    let all: Vec<String> = [
        "read:/a/x",
        "read:/a/b/c",
        "read:/x/y",
        "read:/a/b",
        "write:/a/x",
        "write:/",
        "write:/audit/x",
        "execute:/a/run",
        "read:/q/a\"b[1]",
        "read:/q/[",
        "connect:other.example:443",
        "connect:other.example:8443",
        "connect:bad.example:443",
        "connect:localhost:80",
        "connect:[2001:db8::1]:8080",
    ]
    .into_iter()
    .map(|text| match policy.edits(&action(text)) {
        Ok(edits) => {
            let edits: Vec<String> = edits.iter().map(Edit::to_string).collect();
            format!("{text}: [{}]", edits.join("; "))
        }
        Err(why) => format!("{text}: never, {why}"),
    })
    .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    read:/a/x: []
    read:/a/b/c: [removing or narrowing `read_files: /a/b/c` (under `denied_actions`, line 6); removing or narrowing `read_files: /a/b/*` (under `denied_actions`, line 6); removing or narrowing `read_files: /a/b` (under `approval_required`, line 10)]
    read:/x/y: [removing or narrowing `read_files: /x/y` (under `denied_actions`, line 6); `- read_files: ["/x/y"]` under `allowed_actions`]
    read:/a/b: [removing or narrowing `read_files: /a/b/*` (under `denied_actions`, line 6); removing or narrowing `read_files: /a/b` (under `approval_required`, line 10)]
    write:/a/x: [`- write_files: ["/a/x"]` under `allowed_actions`]
    write:/: never, the root directory of the sandbox is never changed
    write:/audit/x: never, `read+write+delete+execute: /audit/*` (a built-in rule) holds for every policy: no agent reaches the record of what it did
    execute:/a/run: [`- execute_code: ["/a/run"]` under `allowed_actions`]
    read:/q/a"b[1]: [`- read_files: ["/q/a*b*1*"]` under `allowed_actions`]
    read:/q/[: never, its name is made of characters that no pattern can hold; allow the directory that holds it
    connect:other.example:443: [`- network_access: ["other.example"]` under `allowed_actions`]
    connect:other.example:8443: [`- network_access: ["other.example:8443"]` under `allowed_actions`]
    connect:bad.example:443: [removing or narrowing `network_access: bad.example` (under `denied_actions`, line 8); `- network_access: ["bad.example"]` under `allowed_actions`]
    connect:localhost:80: never, no name leads to this machine or its network; connect to the literal address, such as `127.0.0.1`, and allow that
    connect:[2001:db8::1]:8080: [`- network_access: ["[2001:db8::1]:8080"]` under `allowed_actions`]
    "#);
}
