//! Whatever stands in an audit log and its head, reading and verifying it ends without a panic and says the
//! same twice, and no more entries are found good than there are lines.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nemoclaw_audit::{Reader, Record, verify};
use tempfile::TempDir;

// In memory where there is such a place: the file is only how the bytes get in.
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for the log")
});

fuzz_target!(|input: (&[u8], &[u8])| {
    let (log, head) = input;
    for line in log.split(|byte| *byte == b'\n') {
        if let Ok(record) = Record::parse(line) {
            let _ = record.instant();
        }
    }
    let path = DIRECTORY.path().join("audit.jsonl");
    let head_path = DIRECTORY.path().join("audit.jsonl.head");
    fs::write(&path, log).expect("the log is written");
    fs::write(&head_path, head).expect("the head is written");
    let report = verify(&path).expect("the log can be read");
    assert_eq!(verify(&path).expect("the log can be read"), report);
    let lines = log.split(|byte| *byte == b'\n').count();
    assert!(usize::try_from(report.entries).is_ok_and(|entries| entries <= lines));
    if let Ok(reader) = Reader::open(&path) {
        for line in reader.take(1_000) {
            if line.is_err() {
                break;
            }
        }
    }
});
