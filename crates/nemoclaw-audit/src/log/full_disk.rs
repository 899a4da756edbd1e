//! A disk that is really full: a small tmpfs in a mount namespace of the test's own thread, which the kernel takes
//! away with the thread, however it ends. It needs root; elsewhere each test says that it was skipped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::reserve::Reserve;
use crate::{CloseError, Reader, SendError, Sender, Summary, Trouble, Writer, verify};

/// How many entries the queue holds: with long ones, more than the reserve does.
const QUEUE: usize = 200;

/// How the last words are kept: as this filesystem offers it, or as those do that cannot allocate ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Allocated,
    Ballast,
}

/// A small disk with a log on it, and how the trouble was told.
struct Disk {
    root: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
    sender: Sender,
    writer: Writer,
}

impl Disk {
    fn new(root: &Path, kept: Kept) -> Self {
        let mut log = Log::open(&root.join("log"), Durability::EveryBatch).unwrap();
        if kept == Kept::Ballast {
            log.reserve = Reserve::Ballast { whole: false };
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let (sender, writer) = Writer::spawn(log, QUEUE, move |trouble| {
            tell.lock().unwrap().push(match trouble {
                Trouble::ReserveInUse => "reserve in use".to_owned(),
                Trouble::Failed(error) => format!("failed: {error}"),
            });
        })
        .unwrap();
        let disk = Self {
            root: root.to_owned(),
            told,
            sender,
            writer,
        };
        disk.sender.send_and_wait(entry("first")).unwrap();
        disk
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let mut filler = File::create(self.root.join("filler")).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn entries(root: &Path) -> Vec<Entry> {
        assert_eq!(verify(&root.join("log")).unwrap().first_bad, None);
        Reader::open(&root.join("log"))
            .unwrap()
            .map(|line| line.unwrap().record.unwrap().entry)
            .collect()
    }
}

fn entry(resource: &str) -> Entry {
    Entry {
        resource: Some(resource.to_owned()),
        ..Entry::new("write")
    }
}

/// Runs a test on a disk of 2 MiB.
fn on_a_small_disk(test: &str, run: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none)?;
            let options = Some("size=2m,mode=0700");
            mount(none, root, Some("tmpfs"), MsFlags::empty(), options)?;
            run(root);
            Ok::<(), Errno>(())
        });
        thread.join()
    });
    assert_eq!(fs::read_dir(root).unwrap().count(), 0, "the disk stayed");
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(Errno::EPERM)) => skip(test, "mounting a small disk needs root"),
        Ok(Err(errno)) => panic!("{test}: no small disk can be mounted: {errno}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn skip(test: &str, reason: &str) {
    let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == "root"),
        "{test} is required and was skipped: {reason}"
    );
    // Not by `eprintln!`, which the harness keeps to itself when a test passes.
    let _ = writeln!(io::stderr(), "SKIP {test}: {reason}");
}

/// Four threads write, each waiting for each entry, until `enough` says so of what was told, or writing fails.
fn hammer(disk: &Disk, enough: impl Fn(&[String]) -> bool + Sync) -> BTreeSet<String> {
    let acknowledged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (sender, acknowledged, enough) = (disk.sender.clone(), &acknowledged, &enough);
            scope.spawn(move || {
                for number in 0..100_000 {
                    // Long ones, so that a batch can be more than the reserve holds.
                    let name = format!("{thread}/{number}/{}", "x".repeat(4000));
                    if enough(&disk.told()) || sender.send_and_wait(entry(&name)).is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().insert(name);
                }
            });
        }
    });
    acknowledged.into_inner().unwrap()
}

fn missing(acknowledged: &BTreeSet<String>, entries: &[Entry]) -> Vec<String> {
    let written: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| entry.resource.as_deref())
        .collect();
    acknowledged
        .iter()
        .filter(|name| !written.contains(name.as_str()))
        .cloned()
        .collect()
}

fn an_agent_stopped_in_time(root: &Path, kept: Kept) {
    let disk = Disk::new(root, kept);
    disk.fill();
    let acknowledged = hammer(&disk, |told| !told.is_empty());
    assert_eq!(disk.told(), ["reserve in use"]);
    assert!(!acknowledged.is_empty());
    let Summary {
        unwritten,
        reserve_used,
        ..
    } = disk.writer.close(vec![Entry::new("exit")]).unwrap();
    assert_eq!((unwritten, reserve_used), (0, true));
    let entries = Disk::entries(root);
    assert_eq!(missing(&acknowledged, &entries), Vec::<String>::new());
    assert_eq!(entries.last().unwrap().action, "exit");
}

fn an_agent_that_goes_on(root: &Path, kept: Kept) {
    let disk = Disk::new(root, kept);
    disk.fill();
    let acknowledged = hammer(&disk, |_| false);
    let told = disk.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "reserve in use");
    assert!(told[1].starts_with("failed: the disk is full"), "{told:?}");
    let refused = disk.sender.send(entry("late")).unwrap_err();
    assert!(matches!(refused, SendError::Failed(_)), "{refused}");
    // Long last words: they fit because this part of the reserve was kept for them.
    let mut closing = vec![entry(&"y".repeat(4000)); 8];
    closing.push(Entry::new("exit"));
    let CloseError { summary } = disk.writer.close(closing).unwrap_err();
    let summary = summary.unwrap();
    assert!(matches!(*summary.error.unwrap(), LogError::Full { .. }));
    let entries = Disk::entries(root);
    assert_eq!(missing(&acknowledged, &entries), Vec::<String>::new());
    assert_eq!(summary.written, entries.len() as u64);
    let last = &entries[entries.len() - 10..];
    assert_eq!(last[0].action, "audit_gap");
    let details = last[0].details.as_ref().unwrap();
    assert_eq!(details["unwritten"], summary.unwritten);
    assert_eq!(last[9].action, "exit");

    fs::remove_file(root.join("filler")).unwrap();
    let mut log = Log::open(&root.join("log"), Durability::EveryBatch).unwrap();
    assert_eq!(log.append(&[entry("after")]).unwrap(), Appended::Written);
    drop(log);
    assert_eq!(Disk::entries(root).len(), entries.len() + 1);
}

#[test]
fn on_a_full_disk_an_agent_that_is_stopped_in_time_loses_no_entry() {
    let test = "on_a_full_disk_an_agent_that_is_stopped_in_time_loses_no_entry";
    for kept in [Kept::Allocated, Kept::Ballast] {
        on_a_small_disk(test, |root| an_agent_stopped_in_time(root, kept));
    }
}

#[test]
fn on_a_full_disk_nothing_acknowledged_is_lost_and_the_rest_is_counted() {
    let test = "on_a_full_disk_nothing_acknowledged_is_lost_and_the_rest_is_counted";
    for kept in [Kept::Allocated, Kept::Ballast] {
        on_a_small_disk(test, |root| an_agent_that_goes_on(root, kept));
    }
}

#[test]
fn a_batch_that_the_reserve_does_not_hold_is_written_as_far_as_it_goes() {
    let test = "a_batch_that_the_reserve_does_not_hold_is_written_as_far_as_it_goes";
    on_a_small_disk(test, |root| {
        let disk = Disk::new(root, Kept::Allocated);
        disk.fill();
        // The queue fills up while the thread is held up by the lock: what is in it makes one batch.
        let lock = File::open(root.join("log")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        for number in 0..QUEUE {
            let name = format!("{number:03}/{}", "x".repeat(4000));
            let acknowledged = Arc::clone(&acknowledged);
            let acknowledge = {
                let name = name.clone();
                move |result: Result<(), SendError>| {
                    if result.is_ok() {
                        acknowledged.lock().unwrap().insert(name);
                    }
                }
            };
            disk.sender
                .send_and_then(entry(&name), acknowledge)
                .unwrap();
        }
        rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
        let summary = disk.writer.close(Vec::new()).unwrap_err().summary.unwrap();
        let acknowledged = acknowledged.lock().unwrap();
        assert!(acknowledged.len() > 40, "{}", acknowledged.len());
        assert_eq!(summary.unwritten, (QUEUE - acknowledged.len()) as u64);
        assert!(summary.unwritten > 0);
        assert_eq!(
            missing(&acknowledged, &Disk::entries(root)),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_log_whose_disk_is_full_from_the_start_is_not_opened_for_ordinary_entries() {
    let test = "a_log_whose_disk_is_full_from_the_start_is_not_opened_for_ordinary_entries";
    on_a_small_disk(test, |root| {
        let mut filler = File::create(root.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let refused = Log::open(&root.join("log"), Durability::EveryBatch)
            .and_then(|mut log| log.append(&[entry("first")]));
        assert!(
            matches!(&refused, Err(error) if error.is_full() || matches!(error, LogError::Full { .. })),
            "{refused:?}"
        );
    });
}
