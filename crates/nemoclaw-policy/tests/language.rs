//! The language: what is a policy, and what every mistake in one is told.

use nemoclaw_policy::{List, MAX_TEXT_BYTES, Policy, Severity};

const PUBLISHED: &str = include_str!("published.yaml");

/// Everything that is wrong with the text, as people see it.
fn mistakes(text: &str) -> String {
    match Policy::parse(text) {
        Ok(_) => "no mistake".to_owned(),
        Err(found) => found.render("agent.yaml"),
    }
}

/// The messages alone, without places and hints.
fn messages(text: &str) -> Vec<String> {
    match Policy::parse(text) {
        Ok(_) => Vec::new(),
        Err(found) => found.0.into_iter().map(|found| found.message).collect(),
    }
}

#[test]
fn the_published_form_parses_as_it_stands() {
    let policy = Policy::parse(PUBLISHED).unwrap();
    assert_eq!(policy.name.as_str(), "data-analyst");
    assert!(policy.privacy.local_only);
    let rules: Vec<String> = policy
        .rules
        .iter()
        .map(|rule| {
            let list = rule.list.word();
            let (word, line) = (rule.action.word(), rule.place.line);
            format!("{} {list} {word} {} at {line}", rule.id, rule.text)
        })
        .collect();
    insta::assert_snapshot!(rules.join("\n"), @"
    1 allowed read_files /workspace/* at 4
    2 allowed execute_code python at 5
    3 allowed execute_code node at 5
    4 allowed network_access *.company.com at 6
    5 denied delete_files /system/* at 8
    6 denied external_network * at 9
    7 approval write_files /production/* at 11
    8 approval deploy_code true at 12
    ");
    // What it says before this version can do all of it is told, once for each.
    let warnings: Vec<&str> = policy.warnings.iter().map(|w| w.message.as_str()).collect();
    insta::assert_snapshot!(warnings.join("\n"), @"
    `network_access`: this version gives the agent no network besides its model, so this destination cannot be reached yet
    `deploy_code`: this version knows no such action by itself; only the rules about files, programs and hosts are enforced
    ");
}

#[test]
fn the_policies_in_the_reference_are_policies() {
    let reference = include_str!("../../../docs/policy.md");
    let blocks: Vec<&str> = reference
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks[0], PUBLISHED);
    for block in &blocks[1..] {
        assert_eq!(messages(&format!("name: x\n{block}")), Vec::<String>::new());
    }
    assert_eq!(blocks.len(), 2);
}

#[test]
fn the_policy_for_openclaw_is_read_without_a_warning() {
    let policy = Policy::parse(include_str!("../../../policies/openclaw.yaml")).unwrap();
    assert_eq!(policy.warnings, []);
}

#[test]
fn every_section_and_field_of_this_version_is_read() {
    let text = r#"
agent_policy:
  version: 1
  name: "everything"
  enforcement: {default: required, bpf_hooks: best_effort, cgroups: best_effort}
  identity: {user: invoking, on_behalf_of: "Ada Lovelace"}
  workdir: {path: "~/work", mode: direct}
  environment: {pass: [LANG, TERM], set: {PATH: "/opt/tools:/usr/bin", EMPTY: ""}}
  resources: {memory: 4GiB, swap: 0, cpus: 2.5, pids: 512, disk: 10 GiB, wall_time: 8h, open_files: 4_096,
              io: {read_bytes_per_second: 10MB, write_operations_per_second: 100}}
  audit: {path: "~/.local/state/audit"}
  models: {upstream: {url: "https://api.example.com/v1", key: {from: file, path: "~/.key"}}}
  privacy: {local_only: false}
  allowed_actions:
    - read_files: ["${workdir}/*", {paths: [".env"], reason: "settings"}]
      use_tools: true
    - execute_code: ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
"#;
    let policy = Policy::parse(text).unwrap_or_else(|wrong| panic!("{wrong}"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&policy).unwrap(), @r#"
    {
      "name": "everything",
      "version": 1,
      "enforcement": {
        "default": "required",
        "named": [
          null,
          null,
          null,
          null,
          "best_effort",
          null,
          "best_effort"
        ]
      },
      "identity": {
        "user": "invoking",
        "on_behalf_of": "Ada Lovelace"
      },
      "workdir": {
        "path": "~/work",
        "mode": "direct"
      },
      "environment": {
        "pass": [
          "LANG",
          "TERM"
        ],
        "set": {
          "EMPTY": "",
          "PATH": "/opt/tools:/usr/bin"
        }
      },
      "resources": {
        "memory": 4294967296,
        "swap": 0,
        "cpus": 2500,
        "pids": 512,
        "disk": 10737418240,
        "io": {
          "read_bytes_per_second": 10000000,
          "write_bytes_per_second": null,
          "read_operations_per_second": null,
          "write_operations_per_second": 100
        },
        "wall_time": {
          "secs": 28800,
          "nanos": 0
        },
        "open_files": 4096
      },
      "audit": {
        "path": "~/.local/state/audit"
      },
      "models": {
        "upstream": {
          "url": "https://api.example.com/v1",
          "key": {
            "from": "file",
            "path": "~/.key"
          }
        }
      },
      "privacy": {
        "local_only": false
      },
      "rules": [
        {
          "id": "1",
          "list": "allowed",
          "action": "read_files",
          "subject": {
            "files": {
              "access": [
                "read"
              ],
              "pattern": "${workdir}/*"
            }
          },
          "text": "${workdir}/*",
          "reason": null,
          "place": {
            "line": 15,
            "column": 20,
            "length": 14,
            "excerpt": "    - read_files: [\"${workdir}/*\", {paths: [\".env\"], reason: \"settings\"}]",
            "excerpt_column": 20
          }
        },
        {
          "id": "2",
          "list": "allowed",
          "action": "read_files",
          "subject": {
            "files": {
              "access": [
                "read"
              ],
              "pattern": ".env"
            }
          },
          "text": ".env",
          "reason": "settings",
          "place": {
            "line": 15,
            "column": 45,
            "length": 6,
            "excerpt": "    - read_files: [\"${workdir}/*\", {paths: [\".env\"], reason: \"settings\"}]",
            "excerpt_column": 45
          }
        },
        {
          "id": "3",
          "list": "allowed",
          "action": "use_tools",
          "subject": {
            "other": null
          },
          "text": "true",
          "reason": null,
          "place": {
            "line": 16,
            "column": 18,
            "length": 4,
            "excerpt": "      use_tools: true",
            "excerpt_column": 18
          }
        },
        {
          "id": "4",
          "list": "allowed",
          "action": "execute_code",
          "subject": {
            "execute": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
          },
          "text": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
          "reason": null,
          "place": {
            "line": 17,
            "column": 22,
            "length": 73,
            "excerpt": "    - execute_code: [\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]",
            "excerpt_column": 22
          }
        }
      ],
      "warnings": [
        {
          "severity": "warning",
          "message": "a bare file name can only be withheld: this version mounts trees, and does not look for names to allow",
          "line": 15,
          "column": 45,
          "length": 6,
          "excerpt": "    - read_files: [\"${workdir}/*\", {paths: [\".env\"], reason: \"settings\"}]",
          "excerpt_column": 45,
          "hint": "write where, such as `${workdir}/**/.env`"
        },
        {
          "severity": "warning",
          "message": "this version does not look at the digests of programs: the rule neither allows nor withholds any",
          "line": 17,
          "column": 22,
          "length": 73,
          "excerpt": "    - execute_code: [\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]",
          "excerpt_column": 22,
          "hint": "name the program by its path"
        }
      ]
    }
    "#);
}

#[test]
fn the_word_before_everything_may_be_left_out() {
    let bare = "name: x\nallowed_actions: [read_files: [\"/a\"]]";
    let policy = Policy::parse(bare).unwrap();
    assert_eq!(policy.name.as_str(), "x");
    assert_eq!(policy.rules.len(), 1);
    assert_eq!(policy.rules[0].list, List::Allowed);
    assert_eq!(Policy::parse(&format!("\u{feff}{bare}")).unwrap(), policy);
    assert!(Policy::parse(&bare.replace('\n', "\r\n")).is_ok());
}

#[test]
fn every_mistake_is_told_at_once_with_its_place_and_a_remedy() {
    let text = r#"agent_policy:
  version: 2
  name: "data analyst"
  alowed_actions:
    - read_files: ["/workspace/*"]
  enforcement: {default: requird, landlok: required}
  identity: {user: root}
  workdir: {path: "../elsewhere"}
  environment: {pass: [LANG, LANG, "A-B"], set: {PATH: "~/bin"}}
  resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
  audit: {path: "logs"}
  models: {upstream: {url: "https://me:secret@api.example.com", key: {from: environment}}}
  privacy: {local_only: "true"}
  allowed_actions:
    - raed_files: ["/a"]
    - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
    - write_files: ["/", "/*", "**"]
    - delete_files: "/x"
    - execute_code: ["python *", "sha256:12", "py*"]
    - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
    - read_files: []
    - use_tools: "true"
    - deploy_code: false
    - read_files: ["/b"]
      read_files: ["/c"]
    - "read everything"
    - {}
  denied_actions:
    delete_files: ["/system/*"]
  approval_required:
    - write_files: [{paths: ["/p/*"], reson: "why"}, {reason: "no paths"}]
  name: "again"
extends: [base]
"#;
    insta::assert_snapshot!(mistakes(text), @r#"
    error: `version: 2` is not supported yet by this version
     --> agent.yaml:2:12
      |
    2 |   version: 2
      |            ^
      = hint: write `version: 1`

    error: `data analyst` is no name for an agent: 1 to 64 letters, digits, `.`, `_` and `-` are, the first a letter or digit
     --> agent.yaml:3:9
      |
    3 |   name: "data analyst"
      |         ^^^^^^^^^^^^^^
      = hint: write `data-analyst`

    error: unknown word in the policy: `alowed_actions`
     --> agent.yaml:4:3
      |
    4 |   alowed_actions:
      |   ^^^^^^^^^^^^^^
      = hint: did you mean `allowed_actions`?

    error: the level of `default` cannot be `requird`
     --> agent.yaml:6:26
      |
    6 |   enforcement: {default: requird, landlok: required}
      |                          ^^^^^^^
      = hint: did you mean `required`?

    error: unknown word in `enforcement`: `landlok`
     --> agent.yaml:6:35
      |
    6 |   enforcement: {default: requird, landlok: required}
      |                                   ^^^^^^^
      = hint: did you mean `landlock`?

    error: running as another user than `invoking`, such as root, is not supported yet by this version
     --> agent.yaml:7:20
      |
    7 |   identity: {user: root}
      |                    ^^^^
      = hint: write `user: invoking`

    error: `workdir.path` `../elsewhere` is no directory
     --> agent.yaml:8:19
      |
    8 |   workdir: {path: "../elsewhere"}
      |                   ^^^^^^^^^^^^^^
      = hint: write `.`, `sub/directory`, `~/directory` or `/directory`, without `..`, `//`, `*` or variables

    error: `LANG` is passed twice
     --> agent.yaml:9:30
      |
    9 |   environment: {pass: [LANG, LANG, "A-B"], set: {PATH: "~/bin"}}
      |                              ^^^^

    error: `A-B` is no name of a variable
     --> agent.yaml:9:36
      |
    9 |   environment: {pass: [LANG, LANG, "A-B"], set: {PATH: "~/bin"}}
      |                                    ^^^^^
      = hint: names are letters, digits and `_`, and do not begin with a digit

    error: `PATH` names `~/bin`, which is no absolute directory
     --> agent.yaml:9:56
      |
    9 |   environment: {pass: [LANG, LANG, "A-B"], set: {PATH: "~/bin"}}
      |                                                        ^^^^^^^
      = hint: write whole directories parted by `:`, without `~`, `.` or variables

    error: `resources.memory` must be a size, not `4G`
      --> agent.yaml:10:23
       |
    10 |   resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
       |                       ^^
       = hint: write a number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`, `TB`, as in `4GiB`

    error: `resources.cpus` must be a number of CPUs, not `none`
      --> agent.yaml:10:33
       |
    10 |   resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
       |                                 ^^^^
       = hint: write a number from 0.001 to 1000, as in `2` or `0.5`

    error: `resources.pids` must be a whole number of at least 1, not `0`
      --> agent.yaml:10:45
       |
    10 |   resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
       |                                             ^

    error: `resources.wall_time` must be a duration, not `8`
      --> agent.yaml:10:59
       |
    10 |   resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
       |                                                           ^
       = hint: write numbers and units from `d`, `h`, `m`, `s`, `ms`, as in `8h` or `1h30m`

    error: `resources.open_files` must be a whole number of at least 16, not `lots`
      --> agent.yaml:10:74
       |
    10 |   resources: {memory: 4G, cpus: none, pids: 0, wall_time: 8, open_files: lots}
       |                                                                          ^^^^

    error: `audit.path` `logs` is no directory of the host
      --> agent.yaml:11:17
       |
    11 |   audit: {path: "logs"}
       |                 ^^^^^^
       = hint: write `/directory` or `~/directory`, without `..`, `//`, `*` or variables

    error: `models.upstream.url` holds credentials; they belong into `key`, and a user name is not supported yet by this version
      --> agent.yaml:12:28
       |
    12 |   models: {upstream: {url: "https://me:secret@api.example.com", key: {from: environment}}}
       |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = hint: write it as `https://host/v1` or `http://127.0.0.1:8080/v1`

    error: `key.from` cannot be `environment`
      --> agent.yaml:12:77
       |
    12 |   models: {upstream: {url: "https://me:secret@api.example.com", key: {from: environment}}}
       |                                                                             ^^^^^^^^^^^
       = hint: known here: `env` and `file`

    error: `privacy.local_only` must be `true` or `false`, not `"true"`
      --> agent.yaml:13:25
       |
    13 |   privacy: {local_only: "true"}
       |                         ^^^^^^
       = hint: write the word without quotes

    error: unknown word in an entry of `allowed_actions`: `raed_files`
      --> agent.yaml:15:7
       |
    15 |     - raed_files: ["/a"]
       |       ^^^^^^^^^^
       = hint: did you mean `read_files`?

    error: the pattern is empty
      --> agent.yaml:16:20
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                    ^^
       = hint: name a path, or remove the entry

    error: the pattern `relative/path` is relative
      --> agent.yaml:16:24
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                        ^^^^^^^^^^^^^^^
       = hint: write `${workdir}/relative/path` for the working directory, or begin with `/` or `~/`

    error: the pattern holds `..`
      --> agent.yaml:16:41
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                         ^^^^^^^^^
       = hint: write the path that is meant, without `.` and `..`

    error: the pattern ends with `/`
      --> agent.yaml:16:52
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                                    ^^^^^
       = hint: write `/*` at its end for everything beneath, or no `/` for the thing itself

    error: another person's home directory cannot be named with `~`
      --> agent.yaml:16:59
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                                           ^^^^^^^^^^
       = hint: write `~/…` for the home of who starts the agent, or the whole path

    error: `?` has no meaning in a pattern
      --> agent.yaml:16:71
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                                                       ^^^^^^
       = hint: write one pattern for each case, or `*` in its place

    error: `**` must stand alone between two `/`
      --> agent.yaml:16:79
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                                                               ^^^^^^^^
       = hint: write `*` for any part of one name

    error: an entry of `read_files` is `~`, which is nothing in YAML
      --> agent.yaml:16:89
       |
    16 |     - read_files: ["", "relative/path", "/a/../b", "/a/", "~other/x", "/a?b", "/a/b**", ~, 7]
       |                                                                                         ^
       = hint: write `"~"` for the home directory

    error: `write_files: /` allows it everywhere
      --> agent.yaml:17:21
       |
    17 |     - write_files: ["/", "/*", "**"]
       |                     ^^^
       = hint: name the trees that are meant, such as `${workdir}/*`

    error: `write_files: /*` allows it everywhere
      --> agent.yaml:17:26
       |
    17 |     - write_files: ["/", "/*", "**"]
       |                          ^^^^
       = hint: name the trees that are meant, such as `${workdir}/*`

    error: a file name is one component, and `**` stands for several
      --> agent.yaml:17:32
       |
    17 |     - write_files: ["/", "/*", "**"]
       |                                ^^^^
       = hint: write `*` for any name, or `/**` for everything

    error: `delete_files` must be a list, not `"/x"`
      --> agent.yaml:18:21
       |
    18 |     - delete_files: "/x"
       |                     ^^^^
       = hint: write `delete_files: ["…"]`

    error: the program name `python *` holds `*`
      --> agent.yaml:19:22
       |
    19 |     - execute_code: ["python *", "sha256:12", "py*"]
       |                      ^^^^^^^^^^
       = hint: write a path, such as `/usr/bin/python *`

    error: `sha256:12` is no SHA-256 digest
      --> agent.yaml:19:34
       |
    19 |     - execute_code: ["python *", "sha256:12", "py*"]
       |                                  ^^^^^^^^^^^
       = hint: write `sha256:` and 64 hexadecimal digits, as `sha256sum` prints them

    error: the program name `py*` holds `*`
      --> agent.yaml:19:47
       |
    19 |     - execute_code: ["python *", "sha256:12", "py*"]
       |                                               ^^^^^
       = hint: write a path, such as `/usr/bin/py*`

    error: `https://a.example/x` is an address of a page, and a host is wanted
      --> agent.yaml:20:24
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                        ^^^^^^^^^^^^^^^^^^^^^
       = hint: write `a.example`

    error: the address of `10.0.0.1/8` has bits after its prefix
      --> agent.yaml:20:47
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                                               ^^^^^^^^^^^^
       = hint: write `10.0.0.0/8`

    error: `*` stands in the middle of `a.*.b`
      --> agent.yaml:20:61
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                                                             ^^^^^^^
       = hint: write `*.example.com` for every subdomain, or `*` for every host

    error: `0` is no port
      --> agent.yaml:20:70
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                                                                      ^^^^^^^^^^^^^
       = hint: write a number from 1 to 65535

    error: `localhost` means this machine or its network, which no name reaches
      --> agent.yaml:20:85
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                                                                                     ^^^^^^^^^^^^^^^^
       = hint: write the literal address, such as `127.0.0.1:8080`

    error: `127.1` is neither a name nor a whole address
      --> agent.yaml:20:103
       |
    20 |     - network_access: ["https://a.example/x", "10.0.0.1/8", "a.*.b", "a.example:0", "localhost:8080", "127.1"]
       |                                                                                                       ^^^^^^^
       = hint: write all four numbers of the address

    error: `read_files` has an empty list
      --> agent.yaml:21:19
       |
    21 |     - read_files: []
       |                   ^^
       = hint: name something, or remove it

    error: `use_tools` must be a list or `true`, not `"true"`
      --> agent.yaml:22:18
       |
    22 |     - use_tools: "true"
       |                  ^^^^^^
       = hint: write `use_tools: ["…"]` or `use_tools: true`

    error: `deploy_code: false` says nothing
      --> agent.yaml:23:20
       |
    23 |     - deploy_code: false
       |                    ^^^^^
       = hint: remove it; what no rule allows is denied

    error: `read_files` stands twice in this map
      --> agent.yaml:25:7
       |
    25 |       read_files: ["/c"]
       |       ^^^^^^^^^^
       = hint: the first is on line 24; keep one of them

    error: an entry of `allowed_actions` must be a map, not `"read everything"`
      --> agent.yaml:26:7
       |
    26 |     - "read everything"
       |       ^^^^^^^^^^^^^^^^^
       = hint: known inside: `read_files`, `write_files`, `delete_files`, `execute_code`, `network_access`, `external_network`, `deploy_code`, `use_tools`, `use_models`, `install_skills`, `use_gpu` and `send_messages`

    error: an entry of `allowed_actions` is empty
      --> agent.yaml:27:7
       |
    27 |     - {}
       |       ^^

    error: `denied_actions` must be a list of actions, not a map
      --> agent.yaml:29:5
       |
    29 |     delete_files: ["/system/*"]
       |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = hint: write it as a list: `- read_files: ["/path/*"]`

    error: unknown word in a map of `write_files`: `reson`
      --> agent.yaml:31:39
       |
    31 |     - write_files: [{paths: ["/p/*"], reson: "why"}, {reason: "no paths"}]
       |                                       ^^^^^
       = hint: did you mean `reason`?

    error: a map of `write_files` has no `paths`
      --> agent.yaml:31:54
       |
    31 |     - write_files: [{paths: ["/p/*"], reson: "why"}, {reason: "no paths"}]
       |                                                      ^^^^^^^^^^^^^^^^^^^^
       = hint: write `paths: ["…"]`

    error: `name` stands twice in this map
      --> agent.yaml:32:3
       |
    32 |   name: "again"
       |   ^^^^
       = hint: the first is on line 3; keep one of them

    error: `extends` stands beside `agent_policy`
      --> agent.yaml:33:1
       |
    33 | extends: [base]
       | ^^^^^^^
       = hint: indent it so that it stands inside `agent_policy`
    "#);
}

#[test]
fn what_yaml_itself_forbids_is_told_with_its_place() {
    let texts = [
        "name: x\n  bad: indentation",
        "name: [x",
        "name: \"x",
        "name: x\n\tallowed_actions: []",
        "name: *alias",
        "name: &anchor x",
        "name: !!str x",
        "%YAML 1.2\n---\nname: x",
        "name: x\n---\nname: y",
        "[name, x]: y\nname: x",
        "- name",
        "just text",
        "",
        "# nothing but a comment\n",
        "agent_policy:",
        "name: \u{0}x",
    ];
    let all: Vec<String> = texts.into_iter().map(mistakes).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    error: this is not YAML: mapping values are not allowed in this context
     --> agent.yaml:2:6
      |
    2 |   bad: indentation
      |      ^
      = hint: quote text that holds `: `, ` #` or begins with one of `*&!|>@%`, and indent with spaces

    error: this is not YAML: unclosed bracket '['
     --> agent.yaml:1:7
      |
    1 | name: [x
      |       ^
      = hint: close it on the same line, or look for a quote too many

    error: this is not YAML: unclosed quote
     --> agent.yaml:1:7
      |
    1 | name: "x
      |       ^
      = hint: close it on the same line, or look for a quote too many

    error: this is not YAML: while scanning a plain scalar, found a tab
     --> agent.yaml:1:7
      |
    1 | name: x
      |       ^
      = hint: indent with spaces

    error: aliases are not part of the policy language
     --> agent.yaml:1:7
      |
    1 | name: *alias
      |       ^^^^^^
      = hint: quote text that begins with `*`, as in `"*.example.com"`

    error: anchors are not part of the policy language
     --> agent.yaml:1:15
      |
    1 | name: &anchor x
      |               ^
      = hint: write the value out at each place

    error: tags are not part of the policy language
     --> agent.yaml:1:13
      |
    1 | name: !!str x
      |             ^
      = hint: remove the word that begins with `!`, or quote it

    error: this is not YAML: YAML directives are disallowed
     --> agent.yaml:1:1
      |
    1 | %YAML 1.2
      | ^
      = hint: remove the line that begins with `%`

    error: one file holds one policy, and a second document begins here
     --> agent.yaml:2:1
      |
    2 | ---
      | ^^^
      = hint: move what follows into a file of its own

    error: a key must be a word, not a list or a map
     --> agent.yaml:1:1
      |
    1 | [name, x]: y
      | ^^^^^^^^^

    error: the policy must be a map, not a list
     --> agent.yaml:1:1
      |
    1 | - name
      | ^^^^^^
      = hint: begin with `agent_policy:`

    error: the policy must be a map, not `just text`
     --> agent.yaml:1:1
      |
    1 | just text
      | ^^^^^^^^^
      = hint: begin with `agent_policy:`

    error: the policy is empty
     --> agent.yaml
     = hint: begin with `agent_policy:` and, indented beneath it, `name:`

    error: the policy is empty
     --> agent.yaml
     = hint: begin with `agent_policy:` and, indented beneath it, `name:`

    error: the policy must be a map, not nothing
     --> agent.yaml:1:13
      |
    1 | agent_policy:
      |             ^
      = hint: known inside: `version`, `name`, `enforcement`, `identity`, `workdir`, `environment`, `resources`, `audit`, `models`, `privacy`, `allowed_actions`, `denied_actions` and `approval_required`

    error: this is not YAML: unexpected character: `\u{0}'
     --> agent.yaml:1:7
      |
    1 | name: �x
      |       ^
      = hint: quote text that holds `: `, ` #` or begins with one of `*&!|>@%`, and indent with spaces
    "#);
}

#[test]
fn what_a_later_version_will_know_is_refused_by_name() {
    let sections = [
        ("extends: [openclaw, python-dev]", "extends"),
        (
            "secrets: {GITHUB_TOKEN: {from: file, to: [api.github.com]}}",
            "secrets",
        ),
        ("compliance: [hipaa, gdpr, soc2]", "compliance"),
        ("tests: []", "tests"),
        (
            "resources: {gpu: {memory: 8GiB, compute: 25%, priority: high}}",
            "gpu",
        ),
        ("workdir: {mode: overlay}", "overlay"),
        ("models: {providers: {}}", "providers"),
        ("models: {catalogue: {}}", "catalogue"),
        ("models: {budgets: {}}", "budgets"),
        (
            "models: {upstream: {url: \"https://a.example\", key: {from: command, command: pass}}}",
            "command",
        ),
        ("privacy: {classes: {}}", "classes"),
        ("privacy: {on_sensitive: redact}", "on_sensitive"),
        ("audit: {retention: 7y}", "retention"),
        ("version: 2", "version: 2"),
    ];
    let form = |list: &str, action: &str, map: &str| format!("{list}: [{action}: [{map}]]");
    let mut forms = Vec::new();
    for word in ["expires", "when"] {
        let map = format!("{{paths: [\"/a\"], {word}: x}}");
        forms.push((form("allowed_actions", "read_files", &map), word));
    }
    for word in [
        "host", "port", "protocol", "methods", "paths", "programs", "budget",
    ] {
        let map = format!("{{hosts: [a.example], {word}: x}}");
        forms.push((form("allowed_actions", "network_access", &map), word));
    }
    for word in ["once", "for", "session", "always", "timeout", "on_timeout"] {
        let map = format!("{{paths: [\"/a\"], {word}: x}}");
        forms.push((form("approval_required", "write_files", &map), word));
    }
    let sections = sections.map(|(text, word)| (text.to_owned(), word));
    for (text, word) in sections.into_iter().chain(forms) {
        let expected = format!("`{word}` is not supported yet by this version");
        let found = messages(&format!("name: x\n{text}\n"));
        assert_eq!(
            found.iter().filter(|message| **message == expected).count(),
            1,
            "{text}: {found:?}"
        );
    }
}

#[test]
fn a_model_elsewhere_is_refused_where_everything_stays_local() {
    let policy = |url: &str, local: bool| {
        format!(
            "name: x\nmodels: {{upstream: {{url: \"{url}\"}}}}\nprivacy: {{local_only: {local}}}"
        )
    };
    for url in [
        "http://localhost:8080/v1",
        "http://127.0.0.1/v1",
        "http://[::1]:80/v1",
    ] {
        assert!(Policy::parse(&policy(url, true)).is_ok(), "{url}");
    }
    for url in ["https://api.example.com/v1", "http://10.0.0.7/v1"] {
        assert!(Policy::parse(&policy(url, false)).is_ok(), "{url}");
    }
    insta::assert_snapshot!(mistakes(&policy("https://api.example.com/v1", true)), @r#"
    error: `privacy.local_only` keeps model requests on this machine, and `api.example.com` is elsewhere
     --> agent.yaml:2:26
      |
    2 | models: {upstream: {url: "https://api.example.com/v1"}}
      |                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = hint: name `localhost` or a loopback address, or set `local_only: false`
    "#);
}

/// For unoptimised code on a busy machine; what grows with the square of its input takes hours.
const BOUND: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
#[expect(clippy::disallowed_methods, reason = "asks how long parsing takes")]
fn bombs_are_refused_in_bounded_time() {
    let deep = format!(
        "name: x\nprivacy: {}{}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let deep_block = (0..400).fold(String::new(), |text, depth| {
        text + &" ".repeat(depth) + "a:\n"
    });
    let laughs = (1..40).fold("name: x\na0: &a0 [x, x]\n".to_owned(), |text, n| {
        let before = n - 1;
        text + &format!("a{n}: &a{n} [*a{before}, *a{before}]\n")
    });
    let wide = format!(
        "name: x\nallowed_actions: [{}]",
        "a,".repeat(MAX_TEXT_BYTES / 2 - 20)
    );
    let aliases = format!(
        "name: x\nprivacy: [{}]",
        "*a,".repeat(MAX_TEXT_BYTES / 3 - 20)
    );
    let keys = format!(
        "name: x\n{}",
        (0..60_000).fold(String::new(), |text, n| text + &format!("k{n}: 1\n"))
    );
    let long = format!("name: x\n{}", "x".repeat(MAX_TEXT_BYTES - 8));
    let huge = "#".repeat(MAX_TEXT_BYTES + 1);
    let all = [
        ("deep", deep),
        ("deep block", deep_block),
        ("billion laughs", laughs),
        ("wide", wide),
        ("aliases", aliases),
        ("keys", keys),
        ("long", long),
        ("huge", huge),
    ];
    let mut said = Vec::new();
    for (name, text) in all {
        let started = std::time::Instant::now();
        let wrong = Policy::parse(&text).unwrap_err();
        let rendered = wrong.render("bomb.yaml");
        let took = started.elapsed();
        assert!(took < BOUND, "{name}: {took:?}");
        assert!(wrong.0.len() <= 1_001, "{name}");
        assert!(rendered.len() < 1_000_000, "{name}");
        let first = &wrong.0[0];
        let last = &wrong.0[wrong.0.len() - 1];
        assert_eq!(last.severity, Severity::Error);
        said.push(format!("{name}: {} … {}", first.message, last.message));
    }
    insta::assert_snapshot!(said.join("\n"), @"
    deep: lists and maps are nested more than 16 deep … lists and maps are nested more than 16 deep
    deep block: lists and maps are nested more than 16 deep … lists and maps are nested more than 16 deep
    billion laughs: unknown word in the policy: `a0` … aliases are not part of the policy language
    wide: the policy holds more than 131072 values … the policy holds more than 131072 values
    aliases: aliases are not part of the policy language … there are more than 1000, and the others are not shown
    keys: unknown word in the policy: `k0` … there are more than 1000, and the others are not shown
    long: this is not YAML: simple key expected ':' … this is not YAML: simple key expected ':'
    huge: the policy is 1048577 bytes long, and at most 1048576 are read … the policy is 1048577 bytes long, and at most 1048576 are read
    ");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "asks how long parsing takes")]
fn very_many_rules_are_checked_in_bounded_time() {
    let rules = |action: &str, entry: &dyn Fn(usize) -> String| {
        let mut text = format!("name: x\nallowed_actions:\n - {action}:\n");
        for n in 0..8_000 {
            text += &format!("    - \"{}\"\n", entry(n));
        }
        text
    };
    let texts = [
        rules("network_access", &|n| format!("h{n}.example")),
        rules("read_files", &|n| format!("/**/a*{n}/**/b")),
        rules("read_files", &|n| format!("/tree/{n}/*"))
            + " - write_files: [\"/tree/*\"]\n - execute_code: [\"/tree/**/x\"]\n",
    ];
    for text in texts {
        let started = std::time::Instant::now();
        let policy = Policy::parse(&text).unwrap();
        assert!(policy.rules.len() >= 8_000);
        let took = started.elapsed();
        assert!(took < BOUND, "{took:?}");
    }
    let too_many = rules("read_files", &|n| format!("/{n}"));
    let second =
        rules("write_files", &|n| format!("/w/{n}")).replace("name: x\nallowed_actions:\n", "");
    let third =
        rules("delete_files", &|n| format!("/d/{n}")).replace("name: x\nallowed_actions:\n", "");
    let found = messages(&format!("{too_many}{second}{third}"));
    assert_eq!(found, ["the policy holds more than 16384 rules"]);
}
