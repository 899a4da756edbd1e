//! `policy check`: every mistake and every doubt of every file.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nemoclaw_policy::{Diagnostic, Severity};
use serde::Serialize;

use crate::commands::Format;
use crate::policy_file::{self, LoadError};

/// What `policy check` takes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policies to check
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What was found in one file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    /// Whether it is a policy; warnings do not count.
    ok: bool,
    diagnostics: Vec<Diagnostic>,
}

pub(crate) fn run(args: &CheckArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let checked: Vec<Checked> = args.files.iter().map(|file| check(file)).collect();
    match args.format {
        Format::Text => {
            for checked in &checked {
                for diagnostic in &checked.diagnostics {
                    writeln!(out, "{}", diagnostic.render(&checked.file))?;
                }
                writeln!(out, "{}", checked.summary())?;
            }
        }
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &checked)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(if checked.iter().all(|checked| checked.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn check(path: &Path) -> Checked {
    let (ok, diagnostics) = match policy_file::load(path) {
        Ok((policy, _)) => (true, policy.warnings),
        Err(LoadError::Wrong { diagnostics, .. }) => (false, diagnostics.0),
        Err(LoadError::Read(error)) => {
            let mut message = error.to_string();
            if let Some(source) = error.source() {
                message = format!("{message}: {source}");
            }
            let unread = Diagnostic {
                severity: Severity::Error,
                message,
                place: None,
                hint: None,
            };
            (false, vec![unread])
        }
    };
    Checked {
        file: path.to_string_lossy().into_owned(),
        ok,
        diagnostics,
    }
}

impl Checked {
    fn summary(&self) -> String {
        let count = |severity: Severity, word: &str| {
            let found = self
                .diagnostics
                .iter()
                .filter(|one| one.severity == severity);
            match found.count() {
                0 => None,
                1 => Some(format!("1 {word}")),
                more => Some(format!("{more} {word}s")),
            }
        };
        let counts: Vec<String> = [
            count(Severity::Error, "error"),
            count(Severity::Warning, "warning"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let verdict = if self.ok { "ok" } else { "not a policy" };
        match counts.as_slice() {
            [] => format!("{}: {verdict}", self.file),
            counts => format!("{}: {verdict}, {}", self.file, counts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: good\nallowed_actions:\n  - read_files: [\"${workdir}/*\"]\n";
    const DOUBTFUL: &str =
        "name: doubtful\nallowed_actions:\n  - read_files: [\"/a/*\", \"/a/b\"]\n";
    const WRONG: &str = "nmae: wrong\nallowed_actions:\n  - write_files: [\"/\"]\n";

    /// What is printed of these files, and whether all were policies.
    fn printed(files: &[(&str, &[u8])], format: Format) -> (String, ExitCode) {
        let directory = tempfile::tempdir().unwrap();
        let mut args = CheckArgs {
            files: Vec::new(),
            format,
        };
        for (name, content) in files {
            let path = directory.path().join(name);
            if !content.is_empty() {
                std::fs::write(&path, content).unwrap();
            }
            args.files.push(path);
        }
        let mut out = Vec::new();
        let code = run(&args, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        (
            text.replace(directory.path().to_str().unwrap(), "DIR"),
            code,
        )
    }

    #[test]
    fn every_file_is_checked_and_everything_found_is_printed() {
        let files: [(&str, &[u8]); 5] = [
            ("good.yaml", GOOD.as_bytes()),
            ("wrong.yaml", WRONG.as_bytes()),
            ("missing.yaml", b""),
            ("binary.yaml", b"name: \xff\xfe"),
            ("doubtful.yaml", DOUBTFUL.as_bytes()),
        ];
        let (text, code) = printed(&files, Format::Text);
        assert_eq!(code, ExitCode::from(1));
        insta::assert_snapshot!(text, @r#"
        DIR/good.yaml: ok
        error: unknown word in the policy: `nmae`
         --> DIR/wrong.yaml:1:1
          |
        1 | nmae: wrong
          | ^^^^
          = hint: did you mean `name`?

        error: the policy has no `name`
         --> DIR/wrong.yaml:1:1
          |
        1 | nmae: wrong
          | ^^^^^^^^^^^
          = hint: add `name: my-agent`; it names the agent in every record

        error: `write_files: /` allows it everywhere
         --> DIR/wrong.yaml:3:19
          |
        3 |   - write_files: ["/"]
          |                   ^^^
          = hint: name the trees that are meant, such as `${workdir}/*`

        DIR/wrong.yaml: not a policy, 3 errors
        error: could not read policy `DIR/missing.yaml`: No such file or directory (os error 2)
         --> DIR/missing.yaml

        DIR/missing.yaml: not a policy, 1 error
        error: policy `DIR/binary.yaml` is not UTF-8 text: line 1 holds a byte that is no part of it
         --> DIR/binary.yaml

        DIR/binary.yaml: not a policy, 1 error
        warning: this says nothing new: `read_files: /a/*` on line 3 says it already
         --> DIR/doubtful.yaml:3:26
          |
        3 |   - read_files: ["/a/*", "/a/b"]
          |                          ^^^^^^
          = hint: remove the narrower of the two

        DIR/doubtful.yaml: ok, 1 warning
        "#);
    }

    #[test]
    fn warnings_leave_a_policy_one() {
        let (text, code) = printed(&[("doubtful.yaml", DOUBTFUL.as_bytes())], Format::Text);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(
            text.ends_with("DIR/doubtful.yaml: ok, 1 warning\n"),
            "{text}"
        );
        let (text, code) = printed(&[("good.yaml", GOOD.as_bytes())], Format::Text);
        assert_eq!(
            (text.as_str(), code),
            ("DIR/good.yaml: ok\n", ExitCode::SUCCESS)
        );
    }

    #[test]
    fn programs_get_one_list_with_all_files() {
        let files: [(&str, &[u8]); 3] = [
            ("good.yaml", GOOD.as_bytes()),
            ("wrong.yaml", WRONG.as_bytes()),
            ("missing.yaml", b""),
        ];
        let (text, code) = printed(&files, Format::Json);
        assert_eq!(code, ExitCode::from(1));
        insta::assert_snapshot!(text, @r#"
        [
          {
            "file": "DIR/good.yaml",
            "ok": true,
            "diagnostics": []
          },
          {
            "file": "DIR/wrong.yaml",
            "ok": false,
            "diagnostics": [
              {
                "severity": "error",
                "message": "unknown word in the policy: `nmae`",
                "line": 1,
                "column": 1,
                "length": 4,
                "excerpt": "nmae: wrong",
                "excerpt_column": 1,
                "hint": "did you mean `name`?"
              },
              {
                "severity": "error",
                "message": "the policy has no `name`",
                "line": 1,
                "column": 1,
                "length": 11,
                "excerpt": "nmae: wrong",
                "excerpt_column": 1,
                "hint": "add `name: my-agent`; it names the agent in every record"
              },
              {
                "severity": "error",
                "message": "`write_files: /` allows it everywhere",
                "line": 3,
                "column": 19,
                "length": 3,
                "excerpt": "  - write_files: [\"/\"]",
                "excerpt_column": 19,
                "hint": "name the trees that are meant, such as `${workdir}/*`"
              }
            ]
          },
          {
            "file": "DIR/missing.yaml",
            "ok": false,
            "diagnostics": [
              {
                "severity": "error",
                "message": "could not read policy `DIR/missing.yaml`: No such file or directory (os error 2)",
                "hint": null
              }
            ]
          }
        ]
        "#);
    }
}
