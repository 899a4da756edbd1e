//! `generate`: manual pages and shell completions, made from the command line's own description.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use super::CommandLine;

/// The names under which the program is installed.
const NAMES: [&str; 2] = ["nemoclaw-supervisor", "nemoclaw"];

const SHELLS: [Shell; 4] = [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish];

#[derive(Debug, Subcommand)]
pub(crate) enum GenerateCommand {
    /// Write manual pages, one for each command
    Man {
        /// Where to; made if missing
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Write completions for bash, zsh, fish and elvish
    Completions {
        /// Where to; made if missing
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

pub(crate) fn run(command: GenerateCommand, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let (written, directory) = match &command {
        GenerateCommand::Man { directory } => (fill(directory, pages)?, directory),
        GenerateCommand::Completions { directory } => (fill(directory, completions)?, directory),
    };
    writeln!(out, "{written} files in {}", directory.display())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn fill(directory: &Path, write: impl FnOnce(&Path) -> io::Result<usize>) -> anyhow::Result<usize> {
    fs::create_dir_all(directory)
        .and_then(|()| write(directory))
        .with_context(|| format!("could not write to `{}`", directory.display()))
}

/// Writes `nemoclaw-supervisor.1`, `nemoclaw-supervisor-audit.1`, … and `nemoclaw.1`, which leads to the first.
fn pages(directory: &Path) -> io::Result<usize> {
    let [name, short] = NAMES;
    let mut command = CommandLine::command().disable_help_subcommand(true);
    command.build();
    fs::write(
        directory.join(format!("{short}.1")),
        format!(".so man1/{name}.1\n"),
    )?;
    Ok(1 + page(&command, directory)?)
}

/// Writes the page of a command and those of its subcommands; says how many.
fn page(command: &clap::Command, directory: &Path) -> io::Result<usize> {
    let mut written = 1;
    for subcommand in command.get_subcommands() {
        written += page(subcommand, directory)?;
    }
    let manual = Man::new(command.clone())
        .source(concat!("nemoclaw ", env!("CARGO_PKG_VERSION")))
        .manual("nemoclaw");
    let mut bytes = Vec::new();
    manual.render(&mut bytes)?;
    fs::write(directory.join(manual.get_filename()), bytes)?;
    Ok(written)
}

fn completions(directory: &Path) -> io::Result<usize> {
    for name in NAMES {
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut CommandLine::command(), name, directory)?;
        }
    }
    Ok(NAMES.len() * SHELLS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all commands, as in `nemoclaw-supervisor-audit-verify`.
    fn names(command: &clap::Command, parent: &str, names: &mut Vec<String>) {
        let name = if parent.is_empty() {
            command.get_name().to_owned()
        } else {
            format!("{parent}-{}", command.get_name())
        };
        for subcommand in command.get_subcommands() {
            self::names(subcommand, &name, names);
        }
        names.push(name);
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("made/man");
        let written = fill(&into, pages).unwrap();
        let mut all = Vec::new();
        names(&CommandLine::command(), "", &mut all);
        assert!(
            all.contains(&"nemoclaw-supervisor-audit-verify".to_owned()),
            "{all:?}"
        );
        for name in &all {
            let page = fs::read_to_string(into.join(format!("{name}.1"))).unwrap();
            assert!(page.starts_with(".ie "), "{name}: {page}");
            assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
            assert!(page.contains(".SH NAME\n"), "{name}: {page}");
            assert!(page.contains(".SH SYNOPSIS\n"), "{name}: {page}");
            assert!(page.contains(" \\- "), "{name} is not described: {page}");
        }
        assert_eq!(fs::read_dir(&into).unwrap().count(), written);
        assert_eq!(written, all.len() + 1);
        let short = fs::read_to_string(into.join("nemoclaw.1")).unwrap();
        assert_eq!(short, ".so man1/nemoclaw-supervisor.1\n");
    }

    #[test]
    fn every_shell_completes_every_command_under_both_names() {
        let directory = tempfile::tempdir().unwrap();
        let written = fill(directory.path(), completions).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), written);
        for name in NAMES {
            for file in [
                format!("{name}.bash"),
                format!("_{name}"),
                format!("{name}.fish"),
                format!("{name}.elv"),
            ] {
                let text = fs::read_to_string(directory.path().join(&file)).unwrap();
                assert!(text.contains(name), "{file}");
                for command in CommandLine::command().get_subcommands() {
                    assert!(text.contains(command.get_name()), "{file}: {command}");
                    for inner in command.get_subcommands() {
                        assert!(text.contains(inner.get_name()), "{file}: {inner}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = fill(&file.join("man"), pages).unwrap_err();
        assert!(
            format!("{error:#}")
                .starts_with(&format!("could not write to `{}/man`: ", file.display())),
            "{error:#}"
        );
    }
}
