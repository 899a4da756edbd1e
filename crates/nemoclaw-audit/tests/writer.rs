//! The queue loses nothing, however many write, and whichever of them dies.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use nemoclaw_audit::{Durability, Entry, Log, Reader, SendError, Sender, Writer, verify};

/// Names the log to a child of these tests.
const LOG: &str = "NEMOCLAW_AUDIT_TEST_LOG";

fn writer(path: &Path, queue: usize) -> (Sender, Writer) {
    let log = Log::open(path, Durability::EveryBatch).unwrap();
    Writer::spawn(log, queue, |trouble| panic!("{trouble:?}")).unwrap()
}

fn entry(resource: &str) -> Entry {
    Entry {
        resource: Some(resource.to_owned()),
        ..Entry::new("write")
    }
}

/// How often each resource is in a log that must be whole.
fn counts(path: &Path) -> BTreeMap<String, usize> {
    assert_eq!(verify(path).unwrap().first_bad, None);
    let mut counts = BTreeMap::new();
    for line in Reader::open(path).unwrap() {
        if let Some(resource) = line.unwrap().record.unwrap().entry.resource {
            *counts.entry(resource).or_default() += 1;
        }
    }
    counts
}

#[test]
fn a_full_queue_makes_senders_wait_and_loses_nothing() {
    for queue in [0, 1, 7] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (sender, writer) = writer(&path, queue);
        let acknowledged = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let sender = sender.clone();
                let acknowledged = Arc::clone(&acknowledged);
                scope.spawn(move || {
                    for number in 0..50 {
                        let acknowledged = Arc::clone(&acknowledged);
                        sender
                            .send_and_then(entry(&format!("{thread}/{number}")), move |result| {
                                result.unwrap();
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            })
                            .unwrap();
                    }
                });
            }
        });
        let summary = writer.close(vec![entry("last")]).unwrap();
        assert_eq!(acknowledged.load(Ordering::Relaxed), 400);
        assert_eq!((summary.written, summary.unwritten), (401, 0));
        assert_eq!(summary.head.sequence, 401);
        let counts = counts(&path);
        assert_eq!(counts.len(), 401);
        assert!(counts.values().all(|count| *count == 1));
    }
}

#[test]
fn what_was_taken_before_the_end_is_written_and_what_comes_later_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (sender, writer) = writer(&path, 4);
    let start = Arc::new(Barrier::new(5));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (sender, start) = (sender.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                (0..)
                    .map_while(|number| {
                        let name = format!("{thread}/{number}");
                        match sender.send(entry(&name)) {
                            Ok(()) => Some(name),
                            Err(SendError::Closed) => None,
                            Err(error) => panic!("{error}"),
                        }
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    start.wait();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let summary = writer.close(vec![entry("last")]).unwrap();
    let taken: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let counts = counts(&path);
    for name in &taken {
        assert_eq!(counts.get(name), Some(&1), "{name}");
    }
    assert_eq!(counts.len(), taken.len() + 1);
    assert_eq!(summary.written, counts.len() as u64);
    let last = Reader::open(&path).unwrap().last().unwrap().unwrap();
    assert_eq!(last.record.unwrap().entry, entry("last"));
    assert!(matches!(
        sender.send_and_wait(entry("late")),
        Err(SendError::Closed)
    ));
}

#[test]
fn a_dropped_writer_writes_what_was_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (sender, writer) = writer(&path, 100);
    for number in 0..100 {
        sender.send(entry(&number.to_string())).unwrap();
    }
    drop(writer);
    assert_eq!(counts(&path).len(), 100);
}

#[test]
fn a_log_that_fails_is_told_once_and_refuses_everything_after() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = Log::open(&path, Durability::EveryBatch).unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let tell = Arc::clone(&told);
    let (sender, writer) = Writer::spawn(log, 4, move |_| {
        tell.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    sender.send_and_wait(entry("good")).unwrap();
    fs::rename(&path, directory.path().join("moved")).unwrap();
    for _ in 0..3 {
        let error = sender.send_and_wait(entry("lost")).unwrap_err();
        assert!(matches!(error, SendError::Failed(_)), "{error}");
    }
    assert!(sender.failure().is_some());
    assert_eq!(told.load(Ordering::Relaxed), 1);
    let summary = writer
        .close(vec![entry("last")])
        .unwrap_err()
        .summary
        .unwrap();
    // The first that was lost, the word about it, and the last; the others were never taken.
    assert_eq!((summary.written, summary.unwritten), (1, 3));
    assert!(!path.exists());
}

/// The child of the test below: writes until it is killed and says what was acknowledged.
fn write_until_killed(path: &Path) {
    let (sender, _writer) = writer(path, 16);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let sender = sender.clone();
            scope.spawn(move || {
                for number in 0..10_000 {
                    let name = format!("{}-{thread}-{number}", std::process::id());
                    let _ = sender.send(entry(&format!("unacknowledged {name}")));
                    sender.send_and_wait(entry(&name)).unwrap();
                    // Whole lines, so that nothing is told by half.
                    let told = format!("\nacknowledged {name}\n");
                    io::stdout().write_all(told.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Kills its process however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_writers_of_one_log_are_killed_and_nothing_acknowledged_is_lost() {
    if let Some(path) = std::env::var_os(LOG) {
        return write_until_killed(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut children: Vec<Killed> = (0..2)
            .map(|_| {
                let child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "--nocapture"])
                    .arg("two_writers_of_one_log_are_killed_and_nothing_acknowledged_is_lost")
                    .env(LOG, &path)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                Killed(child)
            })
            .collect();
        for child in &mut children {
            let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
            let mut seen = 0;
            while seen < 20 + round {
                let line = lines.next().unwrap().unwrap();
                if let Some(name) = line.strip_prefix("acknowledged ") {
                    acknowledged.push(name.to_owned());
                    seen += 1;
                }
            }
            child.0.kill().unwrap();
            // What it still said before it died was acknowledged too.
            acknowledged.extend(
                lines
                    .map_while(Result::ok)
                    .filter_map(|line| line.strip_prefix("acknowledged ").map(str::to_owned)),
            );
            child.0.wait().unwrap();
        }
    }
    drop(Log::open(&path, Durability::EveryBatch).unwrap());
    let counts = counts(&path);
    assert!(acknowledged.len() >= 6 * 20);
    for name in &acknowledged {
        assert_eq!(counts.get(name), Some(&1), "{name}");
    }
    assert!(counts.values().all(|count| *count == 1));
}
