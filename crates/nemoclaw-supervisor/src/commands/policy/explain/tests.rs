use std::os::unix::fs::symlink;

use super::*;

const POLICY: &str = r#"agent_policy:
  name: "data-analyst"
  allowed_actions:
    - read_files: ["/workspace/*", "~/notes/*", "${workdir}/*"]
    - execute_code: ["python", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    - network_access: ["*.company.com"]
  denied_actions:
    - delete_files: [{paths: ["/system/*"], reason: "the system belongs to its administrators"}]
    - read_files: ["/workspace/secret/*"]
    - external_network: ["*"]
  approval_required:
    - write_files: ["/production/*"]
  audit: {path: "/workspace/audit"}
"#;

/// What is printed for a question about this policy, in a directory that is called `DIR`.
struct Desk {
    directory: tempfile::TempDir,
    root: PathBuf,
}

impl Desk {
    fn new(policy: &str) -> Self {
        // Not in `/tmp`, of which the sandbox has its own.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = directory.path().canonicalize().unwrap();
        let policy = policy.replace("DIR", root.to_str().unwrap());
        std::fs::write(root.join("agent.yaml"), policy).unwrap();
        std::fs::create_dir(root.join("work")).unwrap();
        std::fs::create_dir(root.join("home")).unwrap();
        Self { directory, root }
    }

    fn try_ask(&self, question: &str, format: Format) -> anyhow::Result<String> {
        let root = self.root.to_str().unwrap();
        let args = ExplainArgs {
            file: self.directory.path().join("agent.yaml"),
            action: question.replace("DIR", root),
            workdir: Some(self.root.join("work")),
            home: Some(self.root.join("home")),
            format,
        };
        let mut out = Vec::new();
        assert_eq!(run(&args, &mut out)?, ExitCode::SUCCESS);
        Ok(String::from_utf8(out)?.replace(root, "DIR"))
    }

    fn ask(&self, questions: &[&str]) -> String {
        let answers = questions
            .iter()
            .map(|question| self.try_ask(question, Format::Text).unwrap());
        answers.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_decision_is_told_with_its_rule_and_the_edit_that_would_change_it() {
    let desk = Desk::new(POLICY);
    let text = desk.ask(&[
        "read:/workspace/data.csv",
        "read:/workspace/secret/key",
        "write:/production/table",
        "delete:/system/core",
        "read:/nowhere/x",
        "execute:/nowhere/bin/tool",
        "read:/workspace/audit/log",
        "connect:data.company.com:443",
        "connect:example.org:443",
        "connect:localhost:80",
    ]);
    insta::assert_snapshot!(text, @r#"
    read:/workspace/data.csv is allowed
      by    DIR/agent.yaml:4: `read_files: /workspace/*` under `allowed_actions`

    read:/workspace/secret/key is denied
      by    DIR/agent.yaml:9: `read_files: /workspace/secret/*` under `denied_actions`
      over  DIR/agent.yaml:4: `read_files: /workspace/*` under `allowed_actions`
    to allow it
      remove or narrow DIR/agent.yaml:9: `read_files: /workspace/secret/*` under `denied_actions`

    write:/production/table is held for approval
      by    DIR/agent.yaml:12: `write_files: /production/*` under `approval_required`
      note  this version has nobody to ask, so what is held is refused
    to allow it
      remove or narrow DIR/agent.yaml:12: `write_files: /production/*` under `approval_required`
      add `- write_files: ["/production/table"]` under `allowed_actions`

    delete:/system/core is denied
      by    DIR/agent.yaml:8: `delete_files: /system/*` under `denied_actions`
            because the system belongs to its administrators
    to allow it
      remove or narrow DIR/agent.yaml:8: `delete_files: /system/*` under `denied_actions`
      add `- delete_files: ["/system/core"]` under `allowed_actions`

    read:/nowhere/x is denied
      by    no rule: what no rule allows is denied
    to allow it
      add `- read_files: ["/nowhere/x"]` under `allowed_actions`

    execute:/nowhere/bin/tool is denied
      by    no rule: what no rule allows is denied
      note  rules by digest allow nothing in this version
    to allow it
      add `- execute_code: ["/nowhere/bin/tool"]` under `allowed_actions`

    read:/workspace/audit/log is denied
      by    the built-in rule `read+write+delete+execute: /workspace/audit/*`
            because no agent reaches the record of what it did
      over  DIR/agent.yaml:4: `read_files: /workspace/*` under `allowed_actions`
    no policy can allow it
      `read+write+delete+execute: /workspace/audit/*` (a built-in rule) holds for every policy: no agent reaches the record of what it did

    connect:data.company.com:443 is allowed
      by    DIR/agent.yaml:6: `network_access: *.company.com` under `allowed_actions`
      note  this version gives the agent no network besides its model, so it is not reached yet

    connect:example.org:443 is denied
      by    DIR/agent.yaml:10: `external_network: *` under `denied_actions`
    to allow it
      add `- network_access: ["example.org"]` under `allowed_actions`

    connect:localhost:80 is denied
      by    DIR/agent.yaml:10: `external_network: *` under `denied_actions`
    no policy can allow it
      no name leads to this machine or its network; connect to the literal address, such as `127.0.0.1`, and allow that
    "#);
}

#[test]
fn programs_get_the_whole_answer() {
    let desk = Desk::new(POLICY);
    let text = desk
        .try_ask("read:/workspace/secret/key", Format::Json)
        .unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "action": "read:/workspace/secret/key",
      "verdict": "deny",
      "rule": {
        "id": "8",
        "list": "denied",
        "verdict": "deny",
        "action": "read_files",
        "line": 9,
        "column": 20,
        "text": "/workspace/secret/*",
        "reason": null
      },
      "runners_up": [
        {
          "id": "1",
          "list": "allowed",
          "verdict": "allow",
          "action": "read_files",
          "line": 4,
          "column": 20,
          "text": "/workspace/*",
          "reason": null
        }
      ],
      "reason": "denied by `read_files: /workspace/secret/*` (under `denied_actions`, line 9)",
      "notes": [],
      "edits": [
        {
          "remove": {
            "id": "8",
            "list": "denied",
            "verdict": "deny",
            "action": "read_files",
            "line": 9,
            "column": 20,
            "text": "/workspace/secret/*",
            "reason": null
          }
        }
      ],
      "no_edit": null
    }
    "#);
}

#[test]
fn abbreviated_paths_are_made_whole_and_that_is_said() {
    let desk = Desk::new(POLICY);
    let text = desk.ask(&[
        "read:~/notes/x",
        "read:report.txt",
        "read:../outside",
        "read:.",
        "read:/workspace/../etc/x",
    ]);
    insta::assert_snapshot!(text, @r#"
    read:DIR/home/notes/x is allowed
      by    DIR/agent.yaml:4: `read_files: ~/notes/*` under `allowed_actions`
      note  `~/notes/x` is `DIR/home/notes/x`

    read:DIR/work/report.txt is allowed
      by    DIR/agent.yaml:4: `read_files: ${workdir}/*` under `allowed_actions`
      note  `report.txt` is `DIR/work/report.txt`

    read:DIR/outside is denied
      by    no rule: what no rule allows is denied
      note  `../outside` is `DIR/outside`
    to allow it
      add `- read_files: ["DIR/outside"]` under `allowed_actions`

    read:DIR/work is allowed
      by    DIR/agent.yaml:4: `read_files: ${workdir}/*` under `allowed_actions`
      note  `.` is `DIR/work`

    read:/etc/x is denied
      by    no rule: what no rule allows is denied
      note  `/workspace/../etc/x` is `/etc/x`
    to allow it
      add `- read_files: ["/etc/x"]` under `allowed_actions`
    "#);
}

#[test]
fn a_link_is_decided_where_it_leads() {
    let desk = Desk::new(
        r#"name: x
allowed_actions:
  - read_files: ["${workdir}/*", "DIR/named/*"]
  - delete_files: ["${workdir}/*"]
denied_actions:
  - read_files: ["DIR/work/hidden", "private_*"]
"#,
    );
    let at = |name: &str| desk.root.join(name);
    std::fs::create_dir(at("target")).unwrap();
    std::fs::write(at("target/file"), "").unwrap();
    std::fs::write(at("work/hidden"), "").unwrap();
    std::fs::write(at("work/open"), "").unwrap();
    symlink(at("target"), at("named")).unwrap();
    symlink(at("target/file"), at("work/out")).unwrap();
    symlink("hidden", at("work/alias")).unwrap();
    symlink("open", at("work/private_link")).unwrap();
    let text = desk.ask(&[
        // The rule's own name is a link.
        "read:DIR/named/file",
        // The link lies in what may be read, and what it leads to is named by another rule.
        "read:DIR/work/out",
        "read:DIR/target/file",
        "read:DIR/work/alias",
        "read:DIR/work/private_link",
        "delete:DIR/work/out",
    ]);
    insta::assert_snapshot!(text, @"
    read:DIR/target/file is allowed
      by    DIR/agent.yaml:3: `read_files: DIR/named/*` under `allowed_actions`
      note  `DIR/named/file` leads to `DIR/target/file`, by the link `DIR/named`

    read:DIR/target/file is allowed
      by    DIR/agent.yaml:3: `read_files: DIR/named/*` under `allowed_actions`
      note  `DIR/work/out` leads to `DIR/target/file`, by the link `DIR/work/out`
      note  the link leads out of what `read_files: ${workdir}/*` (under `allowed_actions`, line 3) names

    read:DIR/target/file is allowed
      by    DIR/agent.yaml:3: `read_files: DIR/named/*` under `allowed_actions`

    read:DIR/work/hidden is denied
      by    DIR/agent.yaml:6: `read_files: DIR/work/hidden` under `denied_actions`
      over  DIR/agent.yaml:3: `read_files: ${workdir}/*` under `allowed_actions`
      note  `DIR/work/alias` leads to `DIR/work/hidden`, by the link `DIR/work/alias`
    to allow it
      remove or narrow DIR/agent.yaml:6: `read_files: DIR/work/hidden` under `denied_actions`

    read:DIR/work/open is denied
      by    DIR/agent.yaml:6: `read_files: private_*` under `denied_actions`
      over  DIR/agent.yaml:3: `read_files: ${workdir}/*` under `allowed_actions`
      note  `DIR/work/private_link` leads to `DIR/work/open`, by the link `DIR/work/private_link`
      note  only the link has the name that is withheld; withhold `DIR/work/open` as well
    to allow it
      remove or narrow DIR/agent.yaml:6: `read_files: private_*` under `denied_actions`

    delete:DIR/work/out is allowed
      by    DIR/agent.yaml:4: `delete_files: ${workdir}/*` under `allowed_actions`
    ");
    std::fs::remove_file(at("work/out")).unwrap();
    symlink("/etc/fstab", at("work/out")).unwrap();
    insta::assert_snapshot!(desk.ask(&["read:DIR/work/out"]), @r#"
    read:/etc/fstab is denied
      by    no rule: what no rule allows is denied
      note  `DIR/work/out` leads to `/etc/fstab`, by the link `DIR/work/out`
      note  the link leads out of what `read_files: ${workdir}/*` (under `allowed_actions`, line 3) names
    to allow it
      add `- read_files: ["/etc/fstab"]` under `allowed_actions`
    "#);
}

#[test]
fn a_program_is_decided_by_every_name_that_leads_to_it() {
    let desk = Desk::new(
        r#"name: x
environment: {set: {PATH: "DIR/bin"}}
allowed_actions:
  - execute_code: ["tool"]
"#,
    );
    let at = |name: &str| desk.root.join(name);
    std::fs::create_dir(at("bin")).unwrap();
    std::fs::write(at("bin/tool-1.2"), "").unwrap();
    symlink("tool-1.2", at("bin/tool")).unwrap();
    let text = desk.ask(&["execute:tool", "execute:DIR/bin/tool-1.2", "execute:./tool"]);
    insta::assert_snapshot!(text, @r#"
    execute:DIR/bin/tool-1.2 is allowed
      by    DIR/agent.yaml:4: `execute_code: tool` under `allowed_actions`
      note  `tool` leads to `DIR/bin/tool-1.2`, by the link `DIR/bin/tool`

    execute:DIR/bin/tool-1.2 is allowed
      by    DIR/agent.yaml:4: `execute_code: tool` under `allowed_actions`

    execute:DIR/work/tool is denied
      by    no rule: what no rule allows is denied
      note  `./tool` is `DIR/work/tool`
    to allow it
      add `- execute_code: ["DIR/work/tool"]` under `allowed_actions`
    "#);
    let none = desk
        .try_ask("execute:no-such-tool", Format::Text)
        .unwrap_err();
    insta::assert_snapshot!(none, @"`no-such-tool` is in no directory of the agent's PATH; write a path, such as `./no-such-tool`");
}

#[test]
fn what_the_sandbox_has_of_its_own_is_not_looked_for_on_the_host() {
    let desk = Desk::new("name: x");
    insta::assert_snapshot!(desk.ask(&["read:/proc/self/status", "read:/etc/resolv.conf"]), @"
    read:/proc/self/status is allowed
      by    the built-in rule `read: /proc/*`
            because the sandbox has its own, which nobody else sees

    read:/etc/resolv.conf is allowed
      by    the built-in rule `read: /etc/resolv.conf`
            because the sandbox has its own, which nobody else sees
    ");
}

#[test]
fn what_is_no_question_says_so() {
    let desk = Desk::new(POLICY);
    let said: Vec<String> = [
        "",
        "read",
        "read:",
        "raed:/a",
        "connect:a.example",
        "write:/a\0b",
    ]
    .map(|question| format!("{:#}", desk.try_ask(question, Format::Text).unwrap_err()))
    .into();
    insta::assert_snapshot!(said.join("\n"), @"
    `` is no action; write `read:/path`, `write:/path`, `delete:/path`, `execute:/path` or `connect:host:port`
    `read` is no action; write `read:/path`, `write:/path`, `delete:/path`, `execute:/path` or `connect:host:port`
    path `` is not absolute
    unknown action `raed`; did you mean `read`?
    `a.example` has no port; write `connect:host:port`, with an address of IPv6 in brackets
    path `/a�b` holds a zero byte
    ");
}

#[test]
fn a_wrong_policy_answers_nothing() {
    let desk = Desk::new("name: x\nalowed_actions: []");
    let said = desk
        .try_ask("read:/a", Format::Text)
        .unwrap_err()
        .to_string();
    let said = said.replace(desk.root.to_str().unwrap(), "DIR");
    insta::assert_snapshot!(said.replace(desk.directory.path().to_str().unwrap(), "DIR"), @"
    policy `DIR/agent.yaml` has errors
    error: unknown word in the policy: `alowed_actions`
     --> DIR/agent.yaml:2:1
      |
    2 | alowed_actions: []
      | ^^^^^^^^^^^^^^
      = hint: did you mean `allowed_actions`?
    ");
}
