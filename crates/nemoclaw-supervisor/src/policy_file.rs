//! Policies as files: reading them, and finding the directories that their text leaves open.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nemoclaw_policy::{Bindings, BoundPolicy, Diagnostics, MAX_TEXT_BYTES, Policy};
use rustix::fs::{Mode, OFlags};

use crate::facts::Person;

/// Why a file gave no policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The text was read and is no policy.
    #[error("policy `{}` has errors\n{}", .path.display(), .diagnostics.render(&.path.to_string_lossy()))]
    Wrong {
        path: PathBuf,
        diagnostics: Diagnostics,
    },
}

/// Why a file gave no text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("could not read policy `{}`", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Waiting for a pipe could take forever, and a device has no end.
    #[error("policy `{}` is a {kind}, and a policy is an ordinary file", .path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("policy `{}` is longer than the {MAX_TEXT_BYTES} bytes that are read; split it into policies for several agents", .0.display())]
    TooLong(PathBuf),
    #[error("policy `{}` is not UTF-8 text: line {line} holds a byte that is no part of it", .path.display())]
    NotText { path: PathBuf, line: usize },
}

/// Why a policy could not be bound to this host's directories.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("could not find the {what} directory `{}`", .path.display())]
    Missing {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the {what} directory `{}` is no directory", .path.display())]
    NotADirectory { what: &'static str, path: PathBuf },
    #[error("the {what} directory `{}` has a name that is not UTF-8, which no policy can write", .path.display())]
    NotText { what: &'static str, path: PathBuf },
    /// A rule means something else, or too much, in these directories.
    #[error("the policy cannot be used in these directories\n{0}")]
    Policy(#[from] Diagnostics),
}

/// Reads and checks a policy; the text comes too, for its digest.
pub(crate) fn load(path: &Path) -> Result<(Policy, String), LoadError> {
    let text = read(path)?;
    match Policy::parse(&text) {
        Ok(policy) => Ok((policy, text)),
        Err(diagnostics) => Err(LoadError::Wrong {
            path: path.to_owned(),
            diagnostics,
        }),
    }
}

/// Reads the text of a policy, at most as much of it as a policy may have.
pub(crate) fn read(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    // Without `NONBLOCK`, opening a pipe waits for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(opened);
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        let kind = match kind {
            _ if kind.is_dir() => "directory",
            _ if kind.is_fifo() => "pipe",
            _ => "device",
        };
        return Err(ReadError::Kind {
            path: path.to_owned(),
            kind,
        });
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(ReadError::TooLong(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(good);
        ReadError::NotText {
            path: path.to_owned(),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
        }
    })
}

/// Fills in the directories that the text leaves open: the person's home, and the working
/// directory, which is relative to `current`.
pub(crate) fn bind(
    policy: &Policy,
    current: &Path,
    person: &Person,
) -> Result<BoundPolicy, BindError> {
    // Users of the system have homes that do not exist.
    let home = directory("home", Path::new(&person.home))?;
    let workdir = workdir(policy, current, &home)?;
    bind_to(policy, &home, &workdir)
}

/// Fills in directories that are known already.
pub(crate) fn bind_to(
    policy: &Policy,
    home: &str,
    workdir: &str,
) -> Result<BoundPolicy, BindError> {
    Ok(policy.bind(&Bindings { home, workdir })?)
}

/// A directory without symbolic links; one that does not exist, as it is written.
pub(crate) fn directory(what: &'static str, written: &Path) -> Result<String, BindError> {
    match written.canonicalize() {
        Ok(found) => text(what, found),
        // Without a `/` at its end and the like.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            text(what, written.components().collect())
        }
        Err(source) => Err(BindError::Missing {
            what,
            path: written.to_owned(),
            source,
        }),
    }
}

/// The working directory without symbolic links; it must exist.
pub(crate) fn workdir(policy: &Policy, current: &Path, home: &str) -> Result<String, BindError> {
    const WHAT: &str = "working";
    let written = policy.workdir.path.as_str();
    let path = match written.strip_prefix('~') {
        Some(rest) => Path::new(home).join(rest.trim_start_matches('/')),
        None => current.join(written),
    };
    match path.canonicalize() {
        Ok(found) if !found.is_dir() => Err(BindError::NotADirectory { what: WHAT, path }),
        Ok(found) => text(WHAT, found),
        Err(source) => Err(BindError::Missing {
            what: WHAT,
            path,
            source,
        }),
    }
}

/// A name that is not text must not be taken for another one that looks like it.
fn text(what: &'static str, path: PathBuf) -> Result<String, BindError> {
    match path.into_os_string().into_string() {
        Ok(text) => Ok(text),
        Err(path) => Err(BindError::NotText {
            what,
            path: path.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn person(home: &Path) -> Person {
        Person {
            uid: 1000,
            gid: 1000,
            name: "ada".to_owned(),
            home: home.to_str().unwrap().to_owned(),
        }
    }

    fn policy(text: &str) -> Policy {
        Policy::parse(text).unwrap()
    }

    /// The error with its sources, as the command line prints it, without the test's own directory.
    fn message(error: impl Into<anyhow::Error>, directory: &Path) -> String {
        format!("{:#}", error.into()).replace(directory.to_str().unwrap(), "DIR")
    }

    #[test]
    fn what_is_no_policy_file_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let pipe = path("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(path("latin1"), b"name: x\n# \xe9\n").unwrap();
        std::fs::write(path("huge"), vec![b'#'; MAX_TEXT_BYTES + 1]).unwrap();
        std::fs::write(path("wrong"), "name: x\nnmae: y\n").unwrap();
        let said: Vec<String> = ["missing", ".", "pipe", "latin1", "huge", "wrong"]
            .map(|name| message(load(&path(name)).unwrap_err(), directory.path()))
            .into();
        insta::assert_snapshot!(said.join("\n"), @"
        could not read policy `DIR/missing`: No such file or directory (os error 2)
        policy `DIR/.` is a directory, and a policy is an ordinary file
        policy `DIR/pipe` is a pipe, and a policy is an ordinary file
        policy `DIR/latin1` is not UTF-8 text: line 2 holds a byte that is no part of it
        policy `DIR/huge` is longer than the 1048576 bytes that are read; split it into policies for several agents
        policy `DIR/wrong` has errors
        error: unknown word in the policy: `nmae`
         --> DIR/wrong:2:1
          |
        2 | nmae: y
          | ^^^^
          = hint: did you mean `name`?
        ");
        let device = load(Path::new("/dev/zero")).unwrap_err().to_string();
        insta::assert_snapshot!(device, @"policy `/dev/zero` is a device, and a policy is an ordinary file");
    }

    #[test]
    fn a_policy_as_long_as_allowed_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long.yaml");
        let mut text = "name: x\n".to_owned();
        text.push_str(&"#".repeat(MAX_TEXT_BYTES - text.len()));
        std::fs::write(&path, &text).unwrap();
        let (policy, read) = load(&path).unwrap();
        assert_eq!((policy.name.as_str(), read), ("x", text));
    }

    #[test]
    fn directories_are_bound_without_symbolic_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/home/work")).unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        let person = person(&root.join("link/home/"));
        let home = root.join("real/home");
        let bound = |text: &str, current: &Path| {
            let bound = bind(&policy(text), current, &person).unwrap();
            (bound.home.to_string(), bound.workdir.to_string())
        };
        let home_text = home.to_str().unwrap().to_owned();
        let work = home.join("work").to_str().unwrap().to_owned();
        assert_eq!(
            bound("name: x", &root.join("link")),
            (
                home_text.clone(),
                root.join("real").to_str().unwrap().to_owned()
            )
        );
        for (written, current) in [
            ("~/work", root.as_path()),
            ("./work", home.as_path()),
            ("work", &home),
            (work.as_str(), &root),
        ] {
            let text = format!("name: x\nworkdir: {{path: \"{written}\"}}");
            assert_eq!(bound(&text, current), (home_text.clone(), work.clone()));
        }
    }

    #[test]
    fn a_home_that_does_not_exist_is_taken_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let person = person(Path::new("/nonexistent/"));
        let bound = bind(&policy("name: x"), directory.path(), &person).unwrap();
        assert_eq!(bound.home.as_str(), "/nonexistent");
    }

    #[test]
    fn a_directory_that_no_policy_can_use_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::write(root.join("file"), "").unwrap();
        let odd = root.join(OsStr::from_bytes(b"odd\xff"));
        std::fs::create_dir(&odd).unwrap();
        let person = person(root);
        let said = |text: &str, current: &Path| {
            message(bind(&policy(text), current, &person).unwrap_err(), root)
        };
        let all = [
            said("name: x\nworkdir: {path: gone}", root),
            said("name: x\nworkdir: {path: file}", root),
            said("name: x", &odd),
            said(
                "name: x\nallowed_actions: [write_files: [\"${workdir}/*\"]]",
                Path::new("/"),
            ),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        could not find the working directory `DIR/gone`: No such file or directory (os error 2)
        the working directory `DIR/file` is no directory
        the working directory `DIR/odd�` has a name that is not UTF-8, which no policy can write
        the policy cannot be used in these directories
        error: `write_files: ${workdir}/*` allows it everywhere, because it stands for `/*` here
         --> line 2, column 33
          |
        2 | allowed_actions: [write_files: ["${workdir}/*"]]
          |                                 ^^^^^^^^^^^^^^
          = hint: start the agent in a directory of its own
        : error: `write_files: ${workdir}/*` allows it everywhere, because it stands for `/*` here
         --> line 2, column 33
          |
        2 | allowed_actions: [write_files: ["${workdir}/*"]]
          |                                 ^^^^^^^^^^^^^^
          = hint: start the agent in a directory of its own
        "#);
    }
}
