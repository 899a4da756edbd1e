//! Warnings: each doubt once, with its reason, and none where there is nothing to doubt.

use nemoclaw_policy::Policy;

/// Every warning of a policy with these lists, as people see it.
fn warnings(lists: &str) -> String {
    match Policy::parse(&format!("name: x\n{lists}")) {
        Ok(policy) => {
            let all: Vec<String> = policy
                .warnings
                .iter()
                .map(|warning| warning.render("agent.yaml"))
                .collect();
            all.join("\n")
        }
        Err(wrong) => format!("not a policy: {wrong}"),
    }
}

#[test]
fn a_rule_that_another_leaves_nothing_to_decide() {
    insta::assert_snapshot!(warnings(r#"
allowed_actions:
  - read_files: ["/a/*", "/a/b/*", "/p/x", "/q/y/*", "/r"]
  - execute_code: ["node", "node"]
denied_actions:
  - read_files: ["/p", "/r"]
approval_required:
  - read_files: ["/q/*"]
"#), @r#"
    warning: this says nothing new: `read_files: /a/*` on line 4 says it already
     --> agent.yaml:4:26
      |
    4 |   - read_files: ["/a/*", "/a/b/*", "/p/x", "/q/y/*", "/r"]
      |                          ^^^^^^^^
      = hint: remove the narrower of the two

    warning: this never happens: `read_files: /p` on line 7 denies all of it
     --> agent.yaml:4:36
      |
    4 |   - read_files: ["/a/*", "/a/b/*", "/p/x", "/q/y/*", "/r"]
      |                                    ^^^^^^
      = hint: remove one of the two; a denial beats every other rule

    warning: this is never allowed at once: `read_files: /q/*` on line 9 asks for all of it
     --> agent.yaml:4:44
      |
    4 |   - read_files: ["/a/*", "/a/b/*", "/p/x", "/q/y/*", "/r"]
      |                                            ^^^^^^^^
      = hint: remove one of the two; an approval beats an allowance

    warning: this never happens: `read_files: /r` on line 7 denies all of it
     --> agent.yaml:4:54
      |
    4 |   - read_files: ["/a/*", "/a/b/*", "/p/x", "/q/y/*", "/r"]
      |                                                      ^^^^
      = hint: remove one of the two; a denial beats every other rule

    warning: this says nothing new: `execute_code: node` on line 5 says it already
     --> agent.yaml:5:28
      |
    5 |   - execute_code: ["node", "node"]
      |                            ^^^^^^
      = hint: remove the narrower of the two
    "#);
}

#[test]
fn rules_that_only_look_alike_are_left_alone() {
    let silent = [
        // The directory itself is not in `/a/*` where it is changed.
        "allowed_actions: [write_files: [\"/a/*\", \"/a\"]]",
        "allowed_actions: [read_files: [\"/a/b/*\"], write_files: [\"/a/*\"]]",
        "allowed_actions: [read_files: [\"/a/*/x\", \"/a/b/*\"]]",
        "allowed_actions: [read_files: [\"/a/*\"]]\ndenied_actions: [read_files: [\"/a/b\"]]",
        "allowed_actions: [read_files: [\"/a/*\"]]\ndenied_actions: [read_files: [\"/a/*/b\"]]",
        "denied_actions: [external_network: [\"*\"], network_access: [\"a.example\"]]",
        "denied_actions: [delete_files: [\"*\"]]",
        "allowed_actions: [read_files: [\"~/*\"]]",
        // Nothing beneath `/a/*` is the program `/a`.
        "allowed_actions: [write_files: [\"/a/*\"], execute_code: [\"/a\"]]",
    ];
    for lists in silent {
        assert_eq!(warnings(lists), "", "{lists}");
    }
}

#[test]
fn a_file_that_can_be_written_and_executed() {
    insta::assert_snapshot!(warnings(r#"
environment: {set: {PATH: "/opt/tools:/usr/bin"}}
allowed_actions:
  - write_files: ["/w/*", "/opt/*", "/data/*"]
  - execute_code: ["/w/bin/*", "node"]
"#), @r#"
    warning: what the agent writes here it may also execute, by `execute_code: /w/bin/*` on line 6
     --> agent.yaml:5:19
      |
    5 |   - write_files: ["/w/*", "/opt/*", "/data/*"]
      |                   ^^^^^^
      = hint: keep programs and the agent's own files in different trees

    warning: what the agent writes here it may also execute, by `execute_code: node` on line 6
     --> agent.yaml:5:27
      |
    5 |   - write_files: ["/w/*", "/opt/*", "/data/*"]
      |                           ^^^^^^^^
      = hint: keep programs and the agent's own files in different trees
    "#);
}

#[test]
fn a_secret_that_can_be_read_beside_an_open_network() {
    insta::assert_snapshot!(warnings(r#"
allowed_actions:
  - read_files: ["~/*", "/srv/*"]
  - network_access: ["*"]
denied_actions:
  - read_files: ["~/.ssh", "~/.aws/*"]
"#), @r#"
    warning: the agent may read `~/.gnupg`, `~/.azure` and `~/.config/gcloud` here and send it out, by `network_access: *` on line 5
     --> agent.yaml:4:18
      |
    4 |   - read_files: ["~/*", "/srv/*"]
      |                  ^^^^^
      = hint: deny reading the secrets, or name the hosts that are meant

    warning: `network_access`: this version gives the agent no network besides its model, so this destination cannot be reached yet
     --> agent.yaml:5:22
      |
    5 |   - network_access: ["*"]
      |                      ^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it
    "#);
}

#[test]
fn a_key_that_travels_unencrypted() {
    insta::assert_snapshot!(warnings(r#"
models: {upstream: {url: "http://models.example/v1", key: {from: env, name: KEY}}}
"#), @r#"
    warning: the key travels unencrypted to another machine
     --> agent.yaml:3:26
      |
    3 | models: {upstream: {url: "http://models.example/v1", key: {from: env, name: KEY}}}
      |                          ^^^^^^^^^^^^^^^^^^^^^^^^^^
      = hint: write `https://`
    "#);
}

#[test]
fn withholding_what_is_left_where_nothing_is() {
    insta::assert_snapshot!(warnings(r#"
allowed_actions:
  - network_access: ["*"]
denied_actions:
  - external_network: ["*"]
"#), @r#"
    warning: `network_access`: this version gives the agent no network besides its model, so this destination cannot be reached yet
     --> agent.yaml:4:22
      |
    4 |   - network_access: ["*"]
      |                      ^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: this withholds no web page: `network_access: *` on line 4 names every public host first
     --> agent.yaml:6:24
      |
    6 |   - external_network: ["*"]
      |                        ^^^
      = hint: name the hosts that are meant; `external_network` speaks of those that no `network_access` rule names
    "#);
}

#[test]
fn words_that_nothing_carries_out_yet_are_told_once_each() {
    insta::assert_snapshot!(warnings(r#"
allowed_actions:
  - network_access: ["a.example", "b.example"]
  - use_gpu: true
  - send_messages: ["other"]
  - use_tools: ["read"]
denied_actions:
  - use_models: ["big"]
  - install_skills: true
  - use_gpu: true
approval_required:
  - deploy_code: true
"#), @r#"
    warning: `network_access`: this version gives the agent no network besides its model, so this destination cannot be reached yet
     --> agent.yaml:4:22
      |
    4 |   - network_access: ["a.example", "b.example"]
      |                      ^^^^^^^^^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: this never happens: `use_gpu: true` on line 11 denies all of it
     --> agent.yaml:5:14
      |
    5 |   - use_gpu: true
      |              ^^^^
      = hint: remove one of the two; a denial beats every other rule

    warning: `use_gpu`: this version gives the agent no GPU
     --> agent.yaml:5:14
      |
    5 |   - use_gpu: true
      |              ^^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: `send_messages`: this version carries no messages between agents
     --> agent.yaml:6:21
      |
    6 |   - send_messages: ["other"]
      |                     ^^^^^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: `use_models`: this version does not look into model requests, so nothing enforces this yet
     --> agent.yaml:9:18
      |
    9 |   - use_models: ["big"]
      |                  ^^^^^
      = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: `install_skills`: this version knows no such action by itself; only the rules about files, programs and hosts are enforced
      --> agent.yaml:10:21
       |
    10 |   - install_skills: true
       |                     ^^^^
       = hint: the rule is kept and checked; see the policy reference for what enforces it

    warning: `deploy_code`: this version knows no such action by itself; only the rules about files, programs and hosts are enforced
      --> agent.yaml:13:18
       |
    13 |   - deploy_code: true
       |                  ^^^^
       = hint: the rule is kept and checked; see the policy reference for what enforces it
    "#);
}

#[test]
fn rules_that_mounts_and_landlock_cannot_carry_out() {
    insta::assert_snapshot!(warnings(r#"
allowed_actions:
  - read_files: ["*.txt"]
  - execute_code: ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
denied_actions:
  - read_files: [".env"]
"#), @r#"
    warning: a bare file name can only be withheld: this version mounts trees, and does not look for names to allow
     --> agent.yaml:4:18
      |
    4 |   - read_files: ["*.txt"]
      |                  ^^^^^^^
      = hint: write where, such as `${workdir}/**/*.txt`

    warning: this version does not look at the digests of programs: the rule neither allows nor withholds any
     --> agent.yaml:5:20
      |
    5 |   - execute_code: ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
      |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = hint: name the program by its path
    "#);
}
