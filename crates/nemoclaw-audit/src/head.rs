//! The head file: which entry is the last, so that nothing can be cut off the end unnoticed.
//!
//! Two files of one fixed size take turns: the spare one is written in place and made durable, then the two names are
//! exchanged in one step (renameat2(2), `RENAME_EXCHANGE`). A reader sees the old head or the new one, and no new
//! block or inode is needed, so that the head moves on a full disk too. Where the filesystem cannot exchange names,
//! the spare is renamed over the head.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, RenameFlags, renameat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::encode::GENESIS;
use crate::file::Place;
use crate::log::LogError;

/// The suffix of the head file.
pub(crate) const HEAD: &str = "head";

/// The suffix of the spare head file.
const SPARE: &str = "head.spare";

/// The size of a head file in bytes: the JSON, padded with spaces, and a newline.
const SIZE: usize = 192;

/// The last entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the last entry; 0 for an empty log.
    pub sequence: u64,
    /// The SHA-256 digest of the last line in hexadecimal; 64 zeros for an empty log.
    pub digest: String,
    /// The length of the log in bytes.
    pub bytes: u64,
}

/// Why a head file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// There is none.
    #[error("it is missing")]
    Missing,
    /// It is not as this program writes it.
    #[error("it is not as it was written")]
    Malformed,
    /// It cannot be read.
    #[error("could not read it")]
    Io(#[from] io::Error),
}

impl Head {
    /// The head of a log without entries.
    pub(crate) fn empty() -> Self {
        Self {
            sequence: 0,
            digest: GENESIS.to_owned(),
            bytes: 0,
        }
    }

    /// Reads a head file that is open.
    pub(crate) fn read(file: &File) -> Result<Self, HeadError> {
        let mut bytes = Vec::with_capacity(SIZE + 1);
        file.take(SIZE as u64 + 1).read_to_end(&mut bytes)?;
        let head: Self = serde_json::from_slice(&bytes).map_err(|_| HeadError::Malformed)?;
        if head.encode() == bytes {
            Ok(head)
        } else {
            Err(HeadError::Malformed)
        }
    }

    /// Reads the head of a log that is to be written.
    pub(crate) fn load(place: &Place) -> Result<Self, LogError> {
        let head = match place.open(HEAD, OFlags::RDONLY) {
            Ok(file) => Self::read(&file),
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(HeadError::Missing)
            }
            Err(error) => return Err(error),
        };
        head.map_err(|source| LogError::Head {
            path: place.path(HEAD),
            source,
        })
    }

    /// Makes the head of an empty log, and the spare too: later no file needs to be made, on a full disk least of all.
    pub(crate) fn begin(place: &Place, durable: bool) -> Result<Self, LogError> {
        let head = Self::empty();
        head.replace(place, durable)?;
        head.replace(place, durable)?;
        Ok(head)
    }

    /// Makes this the head of the log. `durable` asks that it survives a loss of power at once.
    pub(crate) fn replace(&self, place: &Place, durable: bool) -> Result<(), LogError> {
        let spare = place.open(SPARE, OFlags::WRONLY | OFlags::CREATE)?;
        let written = || -> io::Result<()> {
            let bytes = self.encode();
            spare.write_all_at(&bytes, 0)?;
            spare.set_len(bytes.len() as u64)?;
            if durable {
                spare.sync_data()?;
            }
            exchange(place, &place.name(SPARE), &place.name(HEAD))?;
            if durable {
                place.sync_directory()?;
            }
            Ok(())
        };
        written().map_err(|source| LogError::io("replace", &place.path(HEAD), source))
    }

    /// The bytes of a head file: always [`SIZE`] of them (the longest JSON has 136).
    fn encode(&self) -> Vec<u8> {
        let Self {
            sequence,
            digest,
            bytes,
        } = self;
        let json = format!(r#"{{"sequence":{sequence},"digest":"{digest}","bytes":{bytes}}}"#);
        format!("{json:<width$}\n", width = SIZE - 1).into_bytes()
    }
}

fn exchange(place: &Place, spare: &OsStr, head: &OsStr) -> io::Result<()> {
    let directory = &place.directory;
    match renameat_with(directory, spare, directory, head, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // No head yet, or no exchange on this filesystem.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Ok(renameat(directory, spare, directory, head)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_has_the_same_size() {
        let longest = Head {
            sequence: u64::MAX,
            digest: GENESIS.to_owned(),
            bytes: u64::MAX,
        };
        assert_eq!(longest.encode().len(), SIZE);
        assert_eq!(Head::empty().encode().len(), SIZE);
    }
}
