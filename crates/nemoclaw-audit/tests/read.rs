//! Reading: the last lines, new lines as they come, and lines that are no entries.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use nemoclaw_audit::{Durability, Entry, Line, Log, Reader, RecordError};

fn append(path: &Path, actions: &[&str]) {
    let mut log = Log::open(path, Durability::AtClose).unwrap();
    let entries: Vec<Entry> = actions.iter().map(|action| Entry::new(*action)).collect();
    let _ = log.append(&entries).unwrap();
}

fn add(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// The action of each line, or what is wrong with it.
fn actions<E: std::fmt::Debug>(lines: impl Iterator<Item = Result<Line, E>>) -> Vec<String> {
    lines
        .map(|line| match line.unwrap().record {
            Ok(record) => record.entry.action,
            Err(error) => error.to_string(),
        })
        .collect()
}

#[test]
fn the_last_lines_are_read_whatever_the_lines_hold() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &["a", "b", "c"]);
    for (count, expected) in [
        (0, vec![]),
        (1, vec!["c"]),
        (2, vec!["b", "c"]),
        (3, vec!["a", "b", "c"]),
        (usize::MAX, vec!["a", "b", "c"]),
    ] {
        let reader = Reader::open_tail(&path, count).unwrap();
        assert_eq!(actions(reader), expected, "{count}");
    }
    // More than one block of the search from the end.
    add(
        &path,
        &[vec![b'x'; 200_000], vec![b'\n'], b"{\"piece".to_vec()].concat(),
    );
    let lines: Vec<Line> = Reader::open_tail(&path, 3)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(lines[0].record.as_ref().unwrap().entry.action, "c");
    assert!(matches!(lines[1].record, Err(RecordError::Json(_))));
    assert_eq!(lines[2].record, Err(RecordError::Torn));
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[usize::try_from(lines[2].offset).unwrap()..].starts_with(b"{\"piece"));
}

#[test]
fn a_follower_sees_each_entry_once_and_no_piece_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &["a"]);
    let mut reader = Reader::open(&path).unwrap().following();
    assert_eq!(actions(&mut reader), ["a"]);
    append(&path, &["b", "c"]);
    assert_eq!(actions(&mut reader), ["b", "c"]);
    // A write that stops in the middle, as seen by a reader, and then goes on.
    let whole = fs::read(&path).unwrap();
    append(&path, &["d"]);
    let line = fs::read(&path).unwrap()[whole.len()..].to_vec();
    fs::write(&path, &whole).unwrap();
    add(&path, &line[..10]);
    assert_eq!(actions(&mut reader), [""; 0]);
    add(&path, &line[10..]);
    assert_eq!(actions(&mut reader), ["d"]);
}

#[test]
fn a_follower_goes_on_after_a_crash_was_put_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &["a"]);
    let mut reader = Reader::open(&path).unwrap().following();
    add(&path, b"{\"sequence\":2,\"another\":");
    assert_eq!(actions(&mut reader), ["a"]);
    append(&path, &["b"]);
    assert_eq!(actions(&mut reader), ["recover", "b"]);
}

#[test]
fn a_follower_goes_on_after_a_batch_was_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &["a"]);
    let whole = fs::read(&path).unwrap();
    let head = fs::read(path.with_file_name("log.head")).unwrap();
    append(&path, &["b"]);
    let mut reader = Reader::open(&path).unwrap().following();
    assert_eq!(actions(&mut reader), ["a", "b"]);
    fs::write(&path, &whole).unwrap();
    fs::write(path.with_file_name("log.head"), head).unwrap();
    assert_eq!(actions(&mut reader), [""; 0]);
    append(&path, &["c"]);
    assert_eq!(actions(&mut reader), ["c"]);
}
