use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use nemoclaw_audit::{Decision, Durability, Entry, Log};

use super::super::{Command, CommandLine};
use super::*;

/// A directory with logs.
struct Made {
    directory: tempfile::TempDir,
}

impl Made {
    fn new(names: &[&str]) -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in names {
            made.write(name, &entries());
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, entries: &[Entry]) {
        let mut log = Log::open(&self.path(name), Durability::AtClose).unwrap();
        let _ = log.append(entries).unwrap();
    }

    /// Changes the lines of a log behind its back.
    fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<String>)) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let mut lines = text.split_inclusive('\n').map(str::to_owned).collect();
        change(&mut lines);
        fs::write(self.path(name), lines.concat()).unwrap();
    }

    /// Runs `audit` with these words, `@` standing for the directory, and answers all it said with the exit status.
    fn said(&self, words: &str) -> String {
        let directory = self.directory.path().to_str().unwrap();
        let words = words.replace('@', directory);
        let mut out = Vec::new();
        let line = ["nemoclaw", "audit"].into_iter().chain(words.split(' '));
        let code = match CommandLine::try_parse_from(line) {
            Ok(line) => {
                let Command::Audit(command) = line.command else {
                    panic!("another command: {words}")
                };
                run(command, &mut out).unwrap_or_else(|error| {
                    writeln!(out, "error: {error:#}").unwrap();
                    ExitCode::FAILURE
                })
            }
            Err(error) => {
                write!(out, "{error}").unwrap();
                ExitCode::from(2)
            }
        };
        let text = String::from_utf8(out).unwrap().replace(directory, "DIR");
        let text: String = text.split_inclusive('\n').map(steady).collect();
        format!("{text}{code:?}")
    }
}

/// A line without what differs from run to run: times, and the digests that hang on them.
fn steady(line: &str) -> String {
    let mut line = line.to_owned();
    for field in ["\"timestamp\":\"", "\"previous\":\"", "\"digest\": \""] {
        if let Some((before, rest)) = line.split_once(field) {
            let (_, after) = rest.split_once('"').unwrap();
            line = format!("{before}{field}…\"{after}");
        }
    }
    match line.split_at_checked(24) {
        Some((time, rest)) if time.starts_with("20") && time.ends_with('Z') => {
            format!("TIME{rest}")
        }
        _ => line,
    }
}

fn entries() -> Vec<Entry> {
    let run = |id: &str, entry: Entry| Entry {
        run_id: Some(id.to_owned()),
        agent_id: Some("coder".to_owned()),
        ..entry
    };
    let refused = |resource: &str| Entry {
        resource: Some(resource.to_owned()),
        policy_decision: Some(Decision::Deny),
        rule: Some("denied_actions[0]".to_owned()),
        enforced_by: Some("landlock".to_owned()),
        program: Some("/bin/cat".to_owned()),
        pid: Some(41),
        ..Entry::new("read")
    };
    vec![
        run("r1", refused("/of/an/earlier/run")),
        run("r2", Entry::new("launch")),
        run("r2", refused("/etc/\u{1b}[2Jshadow")).with_detail("edit", "remove line 12"),
        run("r2", refused("/etc/\u{1b}[2Jshadow")),
        run(
            "r2",
            Entry {
                resource: Some("gpt".to_owned()),
                policy_decision: Some(Decision::Allow),
                model_used: Some("gpt-x".to_owned()),
                cost_tokens: Some(120),
                execution_time_ms: Some(340),
                ..Entry::new("model_request")
            },
        ),
        run(
            "r2",
            Entry {
                reason: Some("exit status 0".to_owned()),
                ..Entry::new("exit")
            },
        ),
    ]
}

#[test]
fn tail_shows_the_last_entries_and_what_their_run_was_refused_before() {
    let made = Made::new(&["coder.jsonl"]);
    insta::assert_snapshot!(made.said("tail @/coder.jsonl -n 3"), @r"
    TIME      4  deny   read           /etc/\u{1b}[2Jshadow  (rule denied_actions[0]; by landlock; /bin/cat pid 41; run r2)
    TIME      5  allow  model_request  gpt  (model gpt-x; 120 tokens; 340 ms; run r2)
    TIME      6  -      exit           (exit status 0; run r2)

    refused:
      read `/etc/\u{1b}[2Jshadow` (2 times): refused by `denied_actions[0]` (landlock); edit: remove line 12
    ExitCode(unix_exit_status(0))
    ");
    insta::assert_snapshot!(made.said("tail @ -n 2 --format json"), @r#"
    {"sequence":5,"timestamp":"…","previous":"…","run_id":"r2","agent_id":"coder","user_on_behalf_of":null,"pid":null,"program":null,"action":"model_request","resource":"gpt","policy_decision":"allow","rule":null,"enforced_by":null,"reason":null,"privacy_classification":null,"model_used":"gpt-x","execution_time_ms":340,"cost_tokens":120,"details":null}
    {"sequence":6,"timestamp":"…","previous":"…","run_id":"r2","agent_id":"coder","user_on_behalf_of":null,"pid":null,"program":null,"action":"exit","resource":null,"policy_decision":null,"rule":null,"enforced_by":null,"reason":"exit status 0","privacy_classification":null,"model_used":null,"execution_time_ms":null,"cost_tokens":null,"details":null}
    {"refusal":{"action":"read","count":2,"edit":"remove line 12","enforced_by":"landlock","reason":null,"resource":"/etc/\u001b[2Jshadow","rule":"denied_actions[0]"}}
    ExitCode(unix_exit_status(0))
    "#);
    assert!(made.said("tail @").contains("/of/an/earlier/run"));
    insta::assert_snapshot!(made.said("tail @ -n 0"), @"ExitCode(unix_exit_status(0))");
}

#[test]
fn an_entry_that_stands_for_many_says_for_how_many() {
    let made = Made::new(&[]);
    let counted = |count: u64| {
        Entry {
            resource: Some("ptrace".to_owned()),
            policy_decision: Some(Decision::Deny),
            reason: Some("Reads other processes.".to_owned()),
            ..Entry::new("syscall")
        }
        .with_detail("count", count)
    };
    made.write("log", &[counted(1), counted(2), counted(3)]);
    insta::assert_snapshot!(made.said("tail @/log"), @"
    TIME      1  deny   syscall        ptrace  (Reads other processes)
    TIME      2  deny   syscall        ptrace  (Reads other processes; 2 times so far)
    TIME      3  deny   syscall        ptrace  (Reads other processes; 3 times so far)

    refused:
      syscall `ptrace` (3 times): no rule allows it, Reads other processes
    ExitCode(unix_exit_status(0))
    ");
}

#[test]
fn query_answers_what_fits_every_condition() {
    let made = Made::new(&["coder.jsonl"]);
    insta::assert_snapshot!(made.said("query @ --decision deny --resource shadow"), @r"
    TIME      3  deny   read           /etc/\u{1b}[2Jshadow  (rule denied_actions[0]; by landlock; /bin/cat pid 41; run r2)
    TIME      4  deny   read           /etc/\u{1b}[2Jshadow  (rule denied_actions[0]; by landlock; /bin/cat pid 41; run r2)
    ExitCode(unix_exit_status(0))
    ");
    insta::assert_snapshot!(made.said("query @ --action launch --run r2 --format json"), @r#"
    {"sequence":2,"timestamp":"…","previous":"…","run_id":"r2","agent_id":"coder","user_on_behalf_of":null,"pid":null,"program":null,"action":"launch","resource":null,"policy_decision":null,"rule":null,"enforced_by":null,"reason":null,"privacy_classification":null,"model_used":null,"execution_time_ms":null,"cost_tokens":null,"details":null}
    ExitCode(unix_exit_status(0))
    "#);
    for (words, expected) in [
        ("query @", 6),
        ("query @ --run r1", 1),
        ("query @ --agent coder", 6),
        ("query @ --agent other", 0),
        ("query @ --since 1h", 6),
        ("query @ --until 1h", 0),
        ("query @ --until 2026-01-01", 0),
        ("query @ --decision ask", 0),
        ("query @ --action read --decision deny --run r2", 2),
    ] {
        assert_eq!(made.said(words).lines().count() - 1, expected, "{words}");
    }
}

#[test]
fn verify_tells_of_each_log() {
    let made = Made::new(&["a.jsonl", "b.jsonl", "c.jsonl"]);
    insta::assert_snapshot!(made.said("verify @/a.jsonl"), @"
    `DIR/a.jsonl`: 6 entries, clean; head agrees
    ExitCode(unix_exit_status(0))
    ");
    insta::assert_snapshot!(made.said("verify @"), @"
    `DIR/a.jsonl`: 6 entries, clean; head agrees
    `DIR/b.jsonl`: 6 entries, clean; head agrees
    `DIR/c.jsonl`: 6 entries, clean; head agrees
    ExitCode(unix_exit_status(0))
    ");
    made.tamper("b.jsonl", |lines| drop(lines.remove(2)));
    fs::remove_file(made.path("c.jsonl")).unwrap();
    insta::assert_snapshot!(made.said("verify @"), @"
    `DIR/a.jsonl`: 6 entries, clean; head agrees
    `DIR/b.jsonl`: BAD at line 3, entry 3 (removed): entry 3 is missing; 2 entries before it good
    `DIR/c.jsonl`: NOT VERIFIED: the audit log `DIR/c.jsonl` was removed: its head file is still there; restore the log, or remove the head file too to start a new one
    ExitCode(unix_exit_status(1))
    ");
    insta::assert_snapshot!(made.said("verify @ --format json"), @r#"
    {
      "clean": false,
      "logs": [
        {
          "path": "DIR/a.jsonl",
          "clean": true,
          "error": null,
          "entries": 6,
          "first_bad": null,
          "head": {
            "present": {
              "sequence": 6,
              "digest": "…",
              "bytes": 2737
            }
          }
        },
        {
          "path": "DIR/b.jsonl",
          "clean": false,
          "error": null,
          "entries": 2,
          "first_bad": {
            "line": 3,
            "sequence": 3,
            "kind": "removed",
            "message": "entry 3 is missing"
          },
          "head": {
            "present": {
              "sequence": 6,
              "digest": "…",
              "bytes": 2737
            }
          }
        },
        {
          "path": "DIR/c.jsonl",
          "clean": false,
          "error": "the audit log `DIR/c.jsonl` was removed: its head file is still there; restore the log, or remove the head file too to start a new one"
        }
      ]
    }
    ExitCode(unix_exit_status(1))
    "#);
}

#[test]
fn verify_names_the_first_bad_entry_for_each_kind_of_tampering() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change); 6] = [
        ("changed", |it| it[2] = it[2].replace("cat", "dog")),
        ("removed", |it| drop(it.remove(3))),
        ("swapped", |it| it.swap(1, 2)),
        ("inserted", |it| it.insert(3, it[1].clone())),
        ("cut", |it| it.truncate(4)),
        ("torn", |it| it[5].truncate(10)),
    ];
    let mut told = String::new();
    for (what, change) in changes {
        let made = Made::new(&["log"]);
        made.tamper("log", change);
        told += &format!("{what}: {}\n", made.said("verify @/log"));
    }
    insta::assert_snapshot!(told, @"
    changed: `DIR/log`: BAD at line 3, entry 3 (changed): the entry was changed: the chain keeps another digest; 2 entries before it good
    ExitCode(unix_exit_status(1))
    removed: `DIR/log`: BAD at line 4, entry 4 (removed): entry 4 is missing; 3 entries before it good
    ExitCode(unix_exit_status(1))
    swapped: `DIR/log`: BAD at line 2, entry 3 (moved): entry 3 stands where entry 2 belongs; 1 entry before it good
    ExitCode(unix_exit_status(1))
    inserted: `DIR/log`: BAD at line 4, entry 2 (inserted): the line was inserted: it says entry 2, and entry 4 belongs here; 3 entries before it good
    ExitCode(unix_exit_status(1))
    cut: `DIR/log`: BAD at line 5, entry 5 (cut_tail): entries 5 to 6 are missing at the end; 4 entries before it good
    ExitCode(unix_exit_status(1))
    torn: `DIR/log`: BAD at line 6, entry 6 (cut_tail): the log ends inside this entry; the head file knows entries up to 6; 5 entries before it good
    ExitCode(unix_exit_status(1))
    ");
}

#[test]
fn a_line_that_is_no_entry_is_shown_in_its_place_and_fails_the_command() {
    let made = Made::new(&["log"]);
    made.tamper("log", |lines| {
        lines.insert(5, "{\"x\u{9b}\":}\n".to_owned())
    });
    insta::assert_snapshot!(made.said("tail @/log -n 2"), @r"
    BAD LINE at byte 2300: the line is not an entry: expected value at line 1 column 8; `audit verify` says more
    TIME      6  -      exit           (exit status 0; run r2)

    refused:
      read `/etc/\u{1b}[2Jshadow` (2 times): refused by `denied_actions[0]` (landlock); edit: remove line 12
    ExitCode(unix_exit_status(1))
    ");
    insta::assert_snapshot!(made.said("query @/log --action exit"), @"
    BAD LINE at byte 2300: the line is not an entry: expected value at line 1 column 8; `audit verify` says more
    TIME      6  -      exit           (exit status 0; run r2)
    ExitCode(unix_exit_status(1))
    ");
    insta::assert_snapshot!(made.said("query @/log --action exit --format json"), @r#"
    {"error":"the line is not an entry: expected value at line 1 column 8","offset":2300}
    {"sequence":6,"timestamp":"…","previous":"…","run_id":"r2","agent_id":"coder","user_on_behalf_of":null,"pid":null,"program":null,"action":"exit","resource":null,"policy_decision":null,"rule":null,"enforced_by":null,"reason":"exit status 0","privacy_classification":null,"model_used":null,"execution_time_ms":null,"cost_tokens":null,"details":null}
    ExitCode(unix_exit_status(1))
    "#);
}

#[test]
fn characters_that_command_a_terminal_are_escaped_even_where_the_log_was_tampered_with() {
    let made = Made::new(&["log"]);
    made.tamper("log", |lines| {
        lines[5] = lines[5].replace("exit status", "\u{9b}2J\u{202e}exit");
    });
    for words in ["query @/log", "query @/log --format json", "tail @/log"] {
        let said = made.said(words);
        assert!(
            said.contains("u{9b}2J") || said.contains("u009b2J"),
            "{said}"
        );
        assert!(
            !said.chars().any(|it| it.is_control() && it != '\n'),
            "{said}"
        );
        assert!(!said.contains('\u{202e}'), "{said}");
    }
}

#[test]
fn a_log_that_is_not_there_is_told_with_what_to_do() {
    let made = Made::new(&["a.jsonl", "b.jsonl"]);
    fs::create_dir(made.path("empty")).unwrap();
    fs::write(made.path("gone.jsonl.head"), "").unwrap();
    let told: Vec<String> = [
        "tail @/c.jsonl",
        "tail @/empty/x",
        "tail @/gone.jsonl",
        "tail @/empty",
        "query @",
        "verify @/c.jsonl @/a.jsonl",
        "verify @/empty",
    ]
    .iter()
    .map(|words| format!("{words}: {}", made.said(words)))
    .collect();
    insta::assert_snapshot!(told.join("\n"), @"
    tail @/c.jsonl: error: there is no audit log `DIR/c.jsonl`; beside it lie `a.jsonl`, `b.jsonl`, `gone.jsonl`
    ExitCode(unix_exit_status(1))
    tail @/empty/x: error: there is no audit log `DIR/empty/x`; run the agent first, or name another
    ExitCode(unix_exit_status(1))
    tail @/gone.jsonl: error: the audit log `DIR/gone.jsonl` was removed: its head file is still there; restore the log, or remove the head file too to start a new one
    ExitCode(unix_exit_status(1))
    tail @/empty: error: there is no audit log in `DIR/empty`; run an agent first, or name the log file
    ExitCode(unix_exit_status(1))
    query @: error: there are 3 audit logs in `DIR`; name one of them: `a.jsonl`, `b.jsonl`, `gone.jsonl`
    ExitCode(unix_exit_status(1))
    verify @/c.jsonl @/a.jsonl: `DIR/c.jsonl`: NOT VERIFIED: there is no audit log `DIR/c.jsonl`; beside it lie `a.jsonl`, `b.jsonl`, `gone.jsonl`
    `DIR/a.jsonl`: 6 entries, clean; head agrees
    ExitCode(unix_exit_status(1))
    verify @/empty: error: there is no audit log in `DIR/empty`; run an agent first, or name the log file
    ExitCode(unix_exit_status(1))
    ");
}

#[test]
fn a_word_that_is_not_known_is_refused() {
    let made = Made::new(&["a.jsonl"]);
    insta::assert_snapshot!(made.said("tail @ --format jsn"), @"
    error: invalid value 'jsn' for '--format <FORMAT>'
      [possible values: text, json]

      tip: a similar value exists: 'json'

    For more information, try '--help'.
    ExitCode(unix_exit_status(2))
    ");
    insta::assert_snapshot!(made.said("query @ --decision denied"), @"
    error: invalid value 'denied' for '--decision <DECISION>'
      [possible values: allow, deny, ask, error]

      tip: a similar value exists: 'deny'

    For more information, try '--help'.
    ExitCode(unix_exit_status(2))
    ");
    insta::assert_snapshot!(made.said("query @ --since soon"), @"
    error: invalid value 'soon' for '--since <TIME>': `soon` is not a time: write `2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago: `90s`, `15m`, `2h`, `7d`

    For more information, try '--help'.
    ExitCode(unix_exit_status(2))
    ");
    insta::assert_snapshot!(made.said("verify @ --agent coder"), @"
    error: the argument '[LOG]...' cannot be used with '--agent <NAME>'

    Usage: nemoclaw audit verify <LOG>...

    For more information, try '--help'.
    ExitCode(unix_exit_status(2))
    ");
}

#[test]
fn output_that_nobody_reads_any_more_ends_quietly() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let made = Made::new(&["log"]);
    for command in ["tail", "query", "verify"] {
        for format in ["text", "json"] {
            let path = made.path("log");
            let path = path.to_str().unwrap();
            let line = ["nemoclaw", "audit", command, path, "--format", format];
            let Command::Audit(command) = CommandLine::parse_from(line).command else {
                panic!("another command")
            };
            let ended = crate::commands::answered(run(command, &mut Closed));
            assert!(matches!(ended, Ok(ExitCode::SUCCESS)), "{ended:?}");
        }
    }
}

#[test]
fn a_directory_lists_its_logs_and_nothing_else() {
    let made = Made::new(&["b.jsonl", "a.jsonl"]);
    for name in ["a.jsonl.torn-1", "a.jsonl.reserve", "notes", "c.jsonl.head"] {
        fs::write(made.path(name), "").unwrap();
    }
    let names = ["a.jsonl", "b.jsonl", "c.jsonl"].map(|name| made.path(name));
    let found = logs::all(&[made.directory.path().to_owned()], None).unwrap();
    assert_eq!(found, names);
    assert!(logs::one(Some(Path::new("/")), None).is_err());
}
