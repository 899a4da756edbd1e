//! Every way to tamper with a log is found, and the first bad entry is named.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::path::{Path, PathBuf};

use nemoclaw_audit::{Bad, BadKind, Durability, Entry, HeadState, Log, verify};
use proptest::prelude::*;
use tempfile::TempDir;

/// A log of `count` entries.
struct Made {
    directory: TempDir,
    lines: Vec<Vec<u8>>,
    head: Vec<u8>,
}

impl Made {
    fn new(count: usize) -> Self {
        let entries: Vec<Entry> = (1..=count)
            .map(|number| Entry {
                resource: Some(format!("/r/{number}")),
                ..Entry::new("read")
            })
            .collect();
        Self::of(&entries)
    }

    fn of(entries: &[Entry]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Log::open(&path, Durability::AtClose).unwrap();
        let _ = log.append(entries).unwrap();
        drop(log);
        let text = fs::read(&path).unwrap();
        let head = fs::read(head_of(&path)).unwrap();
        Self {
            directory,
            lines: text
                .split_inclusive(|byte| *byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect(),
            head,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// Writes these bytes in the log's place and verifies them.
    fn verify(&self, bytes: &[u8]) -> Option<Bad> {
        fs::write(self.path(), bytes).unwrap();
        verify(&self.path()).unwrap().first_bad
    }

    fn verify_lines(&self, lines: &[Vec<u8>]) -> Option<Bad> {
        self.verify(&lines.concat())
    }

    /// The lines after a change to their list.
    fn changed(&self, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> String {
        let mut lines = self.lines.clone();
        change(&mut lines);
        told(self.verify_lines(&lines))
    }
}

fn head_of(path: &Path) -> PathBuf {
    path.with_file_name("log.head")
}

fn told(bad: Option<Bad>) -> String {
    bad.map_or("clean".to_owned(), |bad| format!("{:?}: {bad}", bad.kind))
}

fn replaced(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = str::from_utf8(line).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn an_untouched_log_is_clean() {
    let made = Made::new(5);
    assert_eq!(made.verify(&made.bytes()), None);
    let report = verify(&made.path()).unwrap();
    assert_eq!(report.entries, 5);
    assert!(matches!(report.head, HeadState::Present(head) if head.sequence == 5));
    let empty = Made::new(0);
    assert_eq!(empty.verify(b""), None);
}

#[test]
fn each_kind_of_tampering_names_the_first_bad_entry() {
    let made = Made::new(5);
    let forge = |lines: &[Vec<u8>]| replaced(&lines[2], "/r/3", "/r/9");
    let told = [
        (
            "changed byte",
            made.changed(|it| it[2] = replaced(&it[2], "/r/3", "/r/9")),
        ),
        (
            "changed byte in the last",
            made.changed(|it| it[4] = replaced(&it[4], "/r/5", "/r/9")),
        ),
        (
            "longer last",
            made.changed(|it| it[4] = replaced(&it[4], "/r/5", "/r/99")),
        ),
        (
            "shorter last",
            made.changed(|it| it[4] = replaced(&it[4], "/r/5", "/")),
        ),
        (
            "changed number",
            made.changed(|it| it[2] = replaced(&it[2], "sequence\":3", "sequence\":4")),
        ),
        (
            "number lowered",
            made.changed(|it| it[2] = replaced(&it[2], "sequence\":3", "sequence\":1")),
        ),
        (
            "last number",
            made.changed(|it| it[4] = replaced(&it[4], "sequence\":5", "sequence\":6")),
        ),
        (
            "first previous",
            made.changed(|it| it[0] = replaced(&it[0], "000\"", "001\"")),
        ),
        ("removed", made.changed(|it| drop(it.remove(2)))),
        ("two removed", made.changed(|it| drop(it.drain(1..3)))),
        ("removed first", made.changed(|it| drop(it.remove(0)))),
        ("swapped", made.changed(|it| it.swap(1, 2))),
        ("swapped apart", made.changed(|it| it.swap(1, 3))),
        ("swapped last two", made.changed(|it| it.swap(3, 4))),
        (
            "inserted forgery",
            made.changed(|it| it.insert(2, forge(it))),
        ),
        (
            "inserted copy",
            made.changed(|it| it.insert(3, it[2].clone())),
        ),
        (
            "inserted old",
            made.changed(|it| it.insert(4, it[1].clone())),
        ),
        (
            "inserted junk",
            made.changed(|it| it.insert(2, b"junk\n".to_vec())),
        ),
        (
            "inserted empty",
            made.changed(|it| it.insert(2, b"\n".to_vec())),
        ),
        ("appended copy", made.changed(|it| it.push(it[4].clone()))),
        ("appended forgery", made.changed(|it| it.push(forge(it)))),
        ("cut last", made.changed(|it| drop(it.pop()))),
        ("cut two", made.changed(|it| it.truncate(3))),
        ("cut all", made.changed(Vec::clear)),
        ("cut inside", made.changed(|it| it[4].truncate(30))),
        (
            "piece added",
            made.changed(|it| it.push(b"{\"seq".to_vec())),
        ),
        (
            "duplicate key",
            made.changed(|it| it[1] = replaced(&it[1], "{", "{\"action\":\"x\",")),
        ),
        ("not UTF-8", made.changed(|it| it[1][20] = 0xff)),
        (
            "too long",
            made.changed(|it| it[1] = [vec![b'x'; 1024 * 1024 + 1], vec![b'\n']].concat()),
        ),
    ]
    .map(|(what, told)| format!("{what}: {told}"))
    .join("\n");
    insta::assert_snapshot!(told, @"
    changed byte: Changed: line 3: the entry was changed: the chain keeps another digest
    changed byte in the last: Changed: line 5: the entry was changed: the head file keeps another digest of it
    longer last: Changed: line 5: the entry was changed: the head file keeps another digest of it
    shorter last: Changed: line 5: the entry was changed: the head file keeps another digest of it
    changed number: Changed: line 3: the entry was changed: the chain keeps another digest
    number lowered: Changed: line 3: the entry was changed: the chain keeps another digest
    last number: Changed: line 5: the entry was changed: the chain keeps another digest
    first previous: Changed: line 1: the entry was changed: the chain keeps another digest
    removed: Removed: line 3: entry 3 is missing
    two removed: Removed: line 2: entries 2 to 3 are missing
    removed first: Removed: line 1: entry 1 is missing
    swapped: Moved: line 2: entry 3 stands where entry 2 belongs
    swapped apart: Moved: line 2: entry 4 stands where entry 2 belongs
    swapped last two: Moved: line 4: entry 5 stands where entry 4 belongs
    inserted forgery: Inserted: line 3: the line was inserted: the true entry 3 comes after it
    inserted copy: Inserted: line 4: the line was inserted: it says entry 3, and entry 4 belongs here
    inserted old: Inserted: line 5: the line was inserted: it says entry 2, and entry 5 belongs here
    inserted junk: Malformed: line 3: the line is not an entry: expected value at line 1 column 1
    inserted empty: Malformed: line 3: the line is not an entry: EOF while parsing a value at line 1 column 0
    appended copy: Inserted: line 6: the line was inserted: it says entry 5, and entry 6 belongs here
    appended forgery: Inserted: line 6: the line was inserted: it says entry 3, and entry 6 belongs here
    cut last: CutTail: line 5: entry 5 is missing at the end
    cut two: CutTail: line 4: entries 4 to 5 are missing at the end
    cut all: CutTail: line 1: entries 1 to 5 are missing at the end
    cut inside: CutTail: line 5: the log ends inside this entry; the head file knows entries up to 5
    piece added: Torn: line 6: the line has no end: a write was cut short
    duplicate key: DuplicateKey: line 2: the key `action` occurs twice
    not UTF-8: Malformed: line 2: the line is not UTF-8
    too long: Malformed: line 2: the line is longer than 1048576 bytes
    ");
}

#[test]
fn tampering_with_the_first_a_middle_and_the_last_line_is_found_where_it_is() {
    type Change = fn(&mut Vec<Vec<u8>>, usize);
    let changes: [(&str, Change); 5] = [
        ("flipped", |it, at| it[at][150] ^= 1),
        ("removed", |it, at| drop(it.remove(at))),
        ("swapped", |it, at| {
            it.swap(at, if at == 0 { 1 } else { at - 1 })
        }),
        ("inserted", |it, at| it.insert(at, it[(at + 2) % 5].clone())),
        ("cut", |it, at| it.truncate(at)),
    ];
    let made = Made::new(5);
    let mut all = Vec::new();
    for (what, change) in changes {
        for at in [0, 2, 4] {
            all.push(format!(
                "{what} {}: {}",
                at + 1,
                made.changed(|lines| change(lines, at))
            ));
        }
    }
    insta::assert_snapshot!(all.join("\n"), @"
    flipped 1: Changed: line 1: the entry was changed: the chain keeps another digest
    flipped 3: Changed: line 3: the entry was changed: the chain keeps another digest
    flipped 5: Changed: line 5: the entry was changed: the head file keeps another digest of it
    removed 1: Removed: line 1: entry 1 is missing
    removed 3: Removed: line 3: entry 3 is missing
    removed 5: CutTail: line 5: entry 5 is missing at the end
    swapped 1: Moved: line 1: entry 2 stands where entry 1 belongs
    swapped 3: Moved: line 2: entry 3 stands where entry 2 belongs
    swapped 5: Moved: line 4: entry 5 stands where entry 4 belongs
    inserted 1: Moved: line 1: entry 3 stands where entry 1 belongs
    inserted 3: Moved: line 3: entry 5 stands where entry 3 belongs
    inserted 5: Inserted: line 5: the line was inserted: it says entry 2, and entry 5 belongs here
    cut 1: CutTail: line 1: entries 1 to 5 are missing at the end
    cut 3: CutTail: line 3: entries 3 to 5 are missing at the end
    cut 5: CutTail: line 5: entry 5 is missing at the end
    ");
}

#[test]
fn a_head_that_is_missing_or_changed_is_told() {
    let made = Made::new(3);
    let head = head_of(&made.path());
    let told = |bytes: Option<&[u8]>| {
        fs::remove_file(&head).unwrap();
        if let Some(bytes) = bytes {
            fs::write(&head, bytes).unwrap();
        }
        let told = told(verify(&made.path()).unwrap().first_bad);
        fs::write(&head, &made.head).unwrap();
        told
    };
    let older = Made::new(2).head;
    insta::assert_snapshot!(told(None), @"Head: line 4: the head file is missing: nobody can tell whether entries were cut off the end");
    insta::assert_snapshot!(told(Some(b"{}")), @"Head: line 4: the head file was changed: nobody can tell whether entries were cut off the end");
    insta::assert_snapshot!(told(Some(&replaced(&made.head, "sequence\":3", "sequence\":2"))), @"Changed: line 2: the entry was changed: the head file keeps another digest of it");
    insta::assert_snapshot!(told(Some(&replaced(&made.head, "sequence\":3", "sequence\":4"))), @"CutTail: line 4: entry 4 is missing at the end");
    insta::assert_snapshot!(told(Some(&replaced(&made.head, "bytes\":1", "bytes\":2"))), @"Head: line 4: the head file does not fit the last entry");
    insta::assert_snapshot!(told(Some(&older)), @"Changed: line 2: the entry was changed: the head file keeps another digest of it");
}

#[test]
fn an_entry_added_in_good_form_is_found_by_the_head() {
    let made = Made::new(3);
    let old_head = made.head.clone();
    let mut log = Log::open(&made.path(), Durability::AtClose).unwrap();
    let _ = log.append(&[Entry::new("forged")]).unwrap();
    drop(log);
    fs::write(head_of(&made.path()), old_head).unwrap();
    let report = verify(&made.path()).unwrap();
    assert_eq!(report.entries, 3);
    let bad = report.first_bad.unwrap();
    assert_eq!((bad.line, bad.kind), (4, BadKind::BeyondHead));
}

#[test]
fn every_flipped_bit_of_the_log_and_of_the_head_is_found() {
    let made = Made::new(3);
    let good = made.bytes();
    for index in 0..good.len() {
        let line = 1 + good[..index].iter().filter(|byte| **byte == b'\n').count() as u64;
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[index] ^= 1 << bit;
            let bad = made
                .verify(&bytes)
                .unwrap_or_else(|| panic!("byte {index} bit {bit} was not found"));
            // A changed `sequence` can look like a removal, but always in the right line.
            assert_eq!(bad.line, line, "byte {index} bit {bit}: {bad:?}");
        }
    }
    fs::write(made.path(), &good).unwrap();
    for index in 0..made.head.len() {
        for bit in 0..8 {
            let mut head = made.head.clone();
            head[index] ^= 1 << bit;
            fs::write(head_of(&made.path()), &head).unwrap();
            let report = verify(&made.path()).unwrap();
            assert!(
                report.first_bad.is_some(),
                "head byte {index} bit {bit} was not found"
            );
        }
    }
}

/// An entry as an agent may cause it: any text, and JSON of its own in the details.
fn some_entry() -> impl Strategy<Value = Entry> {
    let json = prop_oneof![
        any::<Option<bool>>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ]
    .prop_recursive(4, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..3)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    });
    (
        any::<String>(),
        any::<Option<String>>(),
        prop::option::of(json),
    )
        .prop_map(|(action, resource, details)| {
            let entry = Entry {
                resource,
                ..Entry::new(action)
            };
            match details {
                Some(value) => entry.with_detail("request", value),
                None => entry,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_other_sequence_of_the_same_lines_is_found(order in prop::collection::vec(0..6_usize, 0..9)) {
        let made = Made::new(6);
        let lines: Vec<_> = order.iter().map(|index| made.lines[*index].clone()).collect();
        let same = order.iter().enumerate().take_while(|(at, index)| at == *index).count();
        let bad = made.verify_lines(&lines);
        if order == [0, 1, 2, 3, 4, 5] {
            prop_assert_eq!(bad, None);
        } else {
            let bad = bad.unwrap();
            // Nothing good is blamed, except that a repeated entry may be taken for the true one.
            prop_assert!(bad.line >= same as u64 && bad.line <= same as u64 + 1, "{:?} {:?}", order, bad);
        }
    }

    #[test]
    fn any_change_of_any_log_is_found(
        entries in prop::collection::vec(some_entry(), 1..7),
        (what, at, other, byte) in (0..8_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=u8::MAX),
    ) {
        let made = Made::of(&entries);
        let good = made.bytes();
        let mut bytes = good.clone();
        let mut lines = made.lines.clone();
        match what {
            0 => bytes[at.index(good.len())] ^= byte,
            1 => drop(bytes.remove(at.index(good.len()))),
            2 => bytes.insert(at.index(good.len() + 1), byte),
            3 => bytes.truncate(at.index(good.len())),
            _ => {
                let (at, other) = (at.index(lines.len()), other.index(lines.len()));
                match what {
                    4 => drop(lines.remove(at)),
                    5 => lines.swap(at, other),
                    6 => lines.insert(at, lines[other].clone()),
                    _ => lines.push(lines[other].clone()),
                }
                bytes = lines.concat();
            }
        }
        let bad = made.verify(&bytes);
        if bytes == good {
            prop_assert_eq!(bad, None);
        } else {
            let bad = bad.unwrap();
            let same = bytes.iter().zip(&good).take_while(|(left, right)| left == right).count();
            let first = 1 + good[..same].iter().filter(|byte| **byte == b'\n').count() as u64;
            // What is inserted in good form, a copy of its neighbour, may be blamed on either.
            prop_assert!(bad.line == first || bad.line + 1 == first, "{} {:?}, differs in line {}", what, bad, first);
        }
    }

    #[test]
    fn any_bytes_at_all_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
        let made = Made::new(1);
        if head {
            fs::write(head_of(&made.path()), &bytes).unwrap();
            prop_assert!(verify(&made.path()).unwrap().first_bad.is_some());
        } else {
            prop_assert!(made.verify(&bytes).is_some());
        }
    }
}
