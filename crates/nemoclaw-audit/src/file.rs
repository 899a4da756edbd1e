//! The files of a log on disk: opened without following links, owned by us alone, locked while they are used.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, mkdirat,
    openat, statat,
};
use rustix::io::Errno;

use crate::log::LogError;

/// How long to wait for another process to finish with the log.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Where a log lies: its directory, held open so that no later change of a path leads elsewhere, and its name.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: OwnedFd,
    pub(crate) path: PathBuf,
    name: OsString,
}

impl Place {
    /// Opens the directory of a log; makes missing directories with mode 0700.
    pub(crate) fn create(path: &Path) -> Result<Self, LogError> {
        let place = split(path).ok_or_else(|| LogError::NoName {
            path: path.to_owned(),
        })?;
        make_directories(place.0)?;
        let directory =
            open_directory(place.0).map_err(|source| LogError::io("open", place.0, source))?;
        let stat = fstat(&directory).map_err(|source| LogError::io("look at", place.0, source))?;
        check_directory(place.0, &stat)?;
        Ok(Self {
            directory,
            path: path.to_owned(),
            name: place.1.to_owned(),
        })
    }

    /// The name of a file beside the log: `audit.jsonl` and `head` give `audit.jsonl.head`.
    pub(crate) fn name(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        if !suffix.is_empty() {
            name.push(".");
            name.push(suffix);
        }
        name
    }

    /// The path of a file beside the log, for messages.
    pub(crate) fn path(&self, suffix: &str) -> PathBuf {
        self.path.with_file_name(self.name(suffix))
    }

    /// Opens one of the log's files for writing.
    ///
    /// A symbolic link is refused (`O_NOFOLLOW`), so are a FIFO or device, a file of somebody else, a file that group
    /// or others may write, and a file with a second name.
    pub(crate) fn open(&self, suffix: &str, flags: OFlags) -> Result<File, LogError> {
        let path = self.path(suffix);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match openat(
            &self.directory,
            self.name(suffix),
            flags,
            Mode::RUSR | Mode::WUSR,
        ) {
            Ok(fd) => fd,
            Err(Errno::LOOP) => return Err(LogError::Symlink { path }),
            Err(source) => return Err(LogError::io("open", &path, source)),
        };
        let stat = fstat(&fd).map_err(|source| LogError::io("look at", &path, source))?;
        check_file(&path, &stat)?;
        Ok(File::from(fd))
    }

    /// Makes the names in the log's directory durable.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        Ok(fsync(&self.directory)?)
    }

    /// Whether the log's name still leads to this file.
    pub(crate) fn names(&self, file: &File) -> io::Result<bool> {
        let held = fstat(file)?;
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Takes a lock on an open file (flock(2)), waiting at most [`LOCK_PATIENCE`]. Says whether it was got.
pub(crate) fn lock(file: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    let end = Instant::now() + LOCK_PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Opens a file of a log for reading only: no link followed, nothing but a regular file.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP => io::Error::other("it is a symbolic link; name the file itself"),
        errno => errno.into(),
    })?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(File::from(fd))
}

/// The directory and the name of a path.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let name = path.file_name()?;
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Some((parent, name))
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Makes each missing directory with mode 0700 and its name durable.
fn make_directories(path: &Path) -> Result<(), LogError> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        match mkdirat(CWD, directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(LogError::io("make", directory, source)),
        }
        let parent = split(directory).map_or(Path::new("/"), |(parent, _)| parent);
        open_directory(parent)
            .and_then(fsync)
            .map_err(|source| LogError::io("sync", parent, source))?;
    }
    Ok(())
}

fn check_directory(path: &Path, stat: &Stat) -> Result<(), LogError> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user && stat.st_uid != 0 {
        return Err(LogError::Owner {
            path: path.to_owned(),
            owner: stat.st_uid,
            user,
        });
    }
    let sticky = stat.st_mode & Mode::SVTX.as_raw_mode() != 0;
    check_mode(path, stat, !sticky)
}

fn check_file(path: &Path, stat: &Stat) -> Result<(), LogError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(LogError::NotRegular {
            path: path.to_owned(),
        });
    }
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(LogError::Owner {
            path: path.to_owned(),
            owner: stat.st_uid,
            user,
        });
    }
    if stat.st_nlink > 1 {
        return Err(LogError::SecondName {
            path: path.to_owned(),
        });
    }
    check_mode(path, stat, true)
}

fn check_mode(path: &Path, stat: &Stat, matters: bool) -> Result<(), LogError> {
    let mode = stat.st_mode & 0o7777;
    if matters && mode & (Mode::WGRP | Mode::WOTH).as_raw_mode() != 0 {
        return Err(LogError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}
