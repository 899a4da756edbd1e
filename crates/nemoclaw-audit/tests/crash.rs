//! What a crash can leave is put right and told; anything else is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::path::{Path, PathBuf};

use nemoclaw_audit::{Durability, Entry, Head, Log, Reader, verify};

struct Made {
    directory: tempfile::TempDir,
    /// The log's length after each batch.
    ends: Vec<usize>,
    /// The head file after each batch.
    heads: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Made {
    /// A log of four batches.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Log::open(&path, Durability::EveryBatch).unwrap();
        let mut ends = vec![0];
        let mut heads = vec![fs::read(head_of(&path)).unwrap()];
        for count in 1..=4 {
            let _ = log.append(&vec![Entry::new("read"); count]).unwrap();
            ends.push(usize::try_from(fs::metadata(&path).unwrap().len()).unwrap());
            heads.push(fs::read(head_of(&path)).unwrap());
        }
        let bytes = fs::read(&path).unwrap();
        Self {
            directory,
            ends,
            heads,
            bytes,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Puts a log and a head in place and removes torn pieces.
    fn put(&self, bytes: &[u8], head: &[u8]) {
        for number in 1..3 {
            let _ = fs::remove_file(torn_of(&self.path(), number));
        }
        fs::write(self.path(), bytes).unwrap();
        fs::write(head_of(&self.path()), head).unwrap();
    }
}

fn head_of(path: &Path) -> PathBuf {
    path.with_file_name("log.head")
}

fn torn_of(path: &Path, number: u32) -> PathBuf {
    path.with_file_name(format!("log.torn-{number}"))
}

fn entries(path: &Path) -> Vec<Entry> {
    Reader::open(path)
        .unwrap()
        .map(|line| line.unwrap().record.unwrap().entry)
        .collect()
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn refused(made: &Made) -> String {
    let error = Log::open(&made.path(), Durability::EveryBatch).unwrap_err();
    chain(&error).replace(&made.directory.path().display().to_string(), "DIR")
}

#[test]
fn a_write_cut_at_any_byte_loses_nothing_that_was_acknowledged() {
    let made = Made::new();
    let head = &made.heads[3];
    let acknowledged = 1 + 2 + 3;
    for end in made.ends[3]..=made.bytes.len() {
        let bytes = &made.bytes[..end];
        made.put(bytes, head);
        let whole = bytes.iter().filter(|byte| **byte == b'\n').count();
        let torn = end - bytes.iter().rposition(|byte| *byte == b'\n').unwrap() - 1;
        let mut log = Log::open(&made.path(), Durability::EveryBatch).unwrap();
        let _ = log.append(&[Entry::new("after")]).unwrap();
        assert_eq!(
            verify(&made.path()).unwrap().first_bad,
            None,
            "cut at {end}"
        );

        let found = entries(&made.path());
        let (recover, after) = found.split_at(whole);
        assert_eq!(recover, vec![Entry::new("read"); whole]);
        let clean = whole == acknowledged && torn == 0;
        assert_eq!(after.len(), if clean { 1 } else { 2 }, "cut at {end}");
        assert_eq!(after.last().unwrap(), &Entry::new("after"));
        if !clean {
            assert_eq!(after[0].action, "recover");
            let details = after[0].details.as_ref().unwrap();
            assert_eq!(details["adopted"], whole - acknowledged);
        }
        let piece = fs::read(torn_of(&made.path(), 1)).unwrap_or_default();
        assert_eq!(piece, &bytes[end - torn..], "cut at {end}");
    }
}

#[test]
fn a_crash_after_any_batch_and_before_its_head_is_put_right() {
    let made = Made::new();
    for batch in 0..4 {
        made.put(&made.bytes[..made.ends[batch + 1]], &made.heads[batch]);
        drop(Log::open(&made.path(), Durability::EveryBatch).unwrap());
        let last = entries(&made.path()).pop().unwrap();
        assert_eq!(
            last.reason.unwrap(),
            format!("{} entries after the head were adopted", batch + 1)
        );
        assert_eq!(verify(&made.path()).unwrap().first_bad, None);
    }
}

#[test]
fn an_open_log_puts_right_what_another_process_left() {
    let made = Made::new();
    let mut log = Log::open(&made.path(), Durability::EveryBatch).unwrap();
    fs::write(made.path(), [&made.bytes[..], b"{\"sequ"].concat()).unwrap();
    let _ = log.append(&[Entry::new("after")]).unwrap();
    let found = entries(&made.path());
    assert_eq!(
        found[10].reason.as_deref(),
        Some("6 bytes of a torn entry were moved to `log.torn-1`")
    );
    assert_eq!(found[11], Entry::new("after"));
    assert_eq!(verify(&made.path()).unwrap().first_bad, None);
}

#[test]
fn a_hole_of_zeros_left_by_a_loss_of_power_is_moved_aside() {
    let made = Made::new();
    let mut bytes = made.bytes.clone();
    bytes[made.ends[3] + 100..made.ends[3] + 300].fill(0);
    made.put(&bytes, &made.heads[3]);
    drop(Log::open(&made.path(), Durability::EveryBatch).unwrap());
    assert_eq!(
        fs::read(torn_of(&made.path(), 1)).unwrap(),
        &bytes[made.ends[3]..]
    );
    assert_eq!(entries(&made.path()).len(), 7);
    assert_eq!(verify(&made.path()).unwrap().first_bad, None);
}

#[test]
fn earlier_torn_pieces_are_kept() {
    let made = Made::new();
    made.put(&made.bytes[..made.ends[3] + 5], &made.heads[3]);
    fs::write(torn_of(&made.path(), 1), "older").unwrap();
    drop(Log::open(&made.path(), Durability::EveryBatch).unwrap());
    assert_eq!(fs::read(torn_of(&made.path(), 1)).unwrap(), b"older");
    assert_eq!(fs::read(torn_of(&made.path(), 2)).unwrap().len(), 5);
}

#[test]
fn what_no_crash_leaves_is_refused_and_left_alone() {
    let made = Made::new();
    let [.., third, last] = &made.heads[..] else {
        panic!("too few batches")
    };
    let mut changed = made.bytes.clone();
    let at = changed.len() - 10;
    changed[at] ^= 1;
    let mut forged = made.bytes[..made.ends[3]].to_vec();
    forged.extend_from_slice(b"{}\n");
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("shorter", &made.bytes[..made.ends[3]], last),
        ("empty", b"", last),
        ("changed last", &changed, last),
        ("forged after the head", &forged, third),
        ("head changed", &made.bytes, b"{}"),
    ];
    let mut told = Vec::new();
    for (what, bytes, head) in cases {
        made.put(bytes, head);
        told.push(format!("{what}: {}", refused(&made)));
        assert_eq!(fs::read(made.path()).unwrap(), bytes, "{what}");
    }
    made.put(&made.bytes, last);
    fs::remove_file(head_of(&made.path())).unwrap();
    told.push(format!("head missing: {}", refused(&made)));
    insta::assert_snapshot!(told.join("\n"), @"
    shorter: the audit log `DIR/log` does not fit its head file: it has 2538 bytes and the head names 4231 bytes and 10 entries; run `audit verify`, then restore the log, or move it and its head away to start a new one
    empty: the audit log `DIR/log` does not fit its head file: it has 0 bytes and the head names 4231 bytes and 10 entries; run `audit verify`, then restore the log, or move it and its head away to start a new one
    changed last: the audit log `DIR/log` does not fit its head file: entry 10 is not the one that the head names; run `audit verify`, then restore the log, or move it and its head away to start a new one
    forged after the head: the audit log `DIR/log` does not fit its head file: the line after entry 6 does not continue it; run `audit verify`, then restore the log, or move it and its head away to start a new one
    head changed: the head file `DIR/log.head` cannot be used; run `audit verify`, then restore it, or move the log and its head away to start a new one: it is not as it was written
    head missing: the head file `DIR/log.head` cannot be used; run `audit verify`, then restore it, or move the log and its head away to start a new one: it is missing
    ");
}

#[test]
fn a_log_moved_away_while_it_is_open_is_noticed() {
    let made = Made::new();
    let mut log = Log::open(&made.path(), Durability::EveryBatch).unwrap();
    fs::rename(made.path(), made.directory.path().join("old")).unwrap();
    let error = log.append(&[Entry::new("lost")]).unwrap_err();
    assert!(
        error.to_string().contains("was moved or removed"),
        "{error}"
    );
}

#[test]
fn a_log_whose_making_was_cut_short_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "").unwrap();
    let mut log = Log::open(&path, Durability::EveryBatch).unwrap();
    let _ = log.append(&[Entry::new("first")]).unwrap();
    let Head { sequence, .. } = log.head();
    assert_eq!(*sequence, 1);
}
