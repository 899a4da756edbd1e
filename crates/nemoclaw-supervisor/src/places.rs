//! Looks up on the host what the policy's patterns name, once.
//!
//! Planning is pure; this is the look at the file system that comes before it.
//! Each path is followed here, link by link, and then opened again at its
//! canonical place without following any: what planning sees is a place with an
//! identity (device and inode), which the launch compares before it mounts.

mod hard_links;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nemoclaw_policy::{Compiled, FileAccess, PathPattern, PathRule, Program, Tail, Verdict};
use nemoclaw_sandbox::plan::Source;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use serde::{Deserialize, Serialize};

pub(crate) use hard_links::NamedElsewhere;

/// Most entries that are looked at for all patterns together. A workspace of a
/// million files is possible; one without an end is not.
const MOST_ENTRIES: usize = 2_000_000;
/// Deepest directory that patterns reach into.
const DEEPEST: usize = 64;
/// Links in one path, as in path_resolution(7).
const MOST_LINKS: usize = 40;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Directory,
    File,
    /// A character or block device.
    Device,
    /// A socket, a FIFO.
    Other,
}

/// A path of the policy and what it led to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The path as it was asked for.
    pub(crate) named: String,
    /// Where it leads, with its identity.
    pub(crate) source: Source,
    pub(crate) kind: Kind,
    /// Symbolic links that were followed, each by its own canonical place.
    pub(crate) links: Vec<String>,
}

impl Place {
    /// Canonical path.
    pub(crate) fn path(&self) -> &str {
        &self.source.path
    }
}

/// A rule's pattern with the places that it names now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Located {
    pub(crate) rule: PathRule,
    pub(crate) places: Vec<Place>,
    /// Whether places may come to be that the pattern names and `places` lacks.
    pub(crate) open_ended: bool,
}

/// An executable file that a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) place: Place,
    /// The interpreter that a script names, and where it leads.
    pub(crate) interpreter: Option<(String, Option<Place>)>,
}

/// What the host holds of what the policy speaks of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Places {
    pub(crate) grants: Vec<Located>,
    pub(crate) denials: Vec<Located>,
    /// Rules that need approval: nobody can be asked yet, so they are refused.
    pub(crate) holds: Vec<Located>,
    /// Programs by name, as found on the sandbox's `PATH`.
    pub(crate) programs: BTreeMap<String, Vec<Executable>>,
    /// The dynamic loaders, which the kernel executes with every program.
    pub(crate) loaders: Vec<Place>,
    /// Files of proc that are to be masked or made read-only.
    pub(crate) proc: Vec<Place>,
    pub(crate) devices: Vec<Place>,
    /// The supervisor's own files that may lie in a tree the agent may write.
    pub(crate) guarded: Vec<Place>,
    /// What the agent must not even read: the audit log.
    pub(crate) hidden: Vec<Place>,
    pub(crate) working_directory: Option<Place>,
    pub(crate) named_elsewhere: NamedElsewhere,
}

/// Why the host could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlacesError {
    #[error("could not resolve `{path}`")]
    Resolve { path: String, source: io::Error },
    #[error("`{path}` leads to a name that is not UTF-8; rename it or leave it out of the policy")]
    NotText { path: String },
    #[error(
        "`{path}` cannot be listed by you, but your agent could reach into it, so what the policy denies in it would \
         not be covered; open it with chmod(1), or start elsewhere"
    )]
    Closed { path: String },
    #[error("the policy's patterns span more than {MOST_ENTRIES} files; name narrower directories")]
    TooMany,
}

/// Dynamic loaders by architecture and C library (ld.so(8)).
const LOADERS: [&str; 5] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux.so.2",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// What is covered or made read-only in proc: knobs and memory of the whole
/// machine, which have no namespace (proc(5)).
pub(crate) const PROC_MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
];
pub(crate) const PROC_READ_ONLY: [&str; 6] = [
    "/proc/bus",
    "/proc/driver",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
pub(crate) const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// What else to look up beside the policy's patterns.
pub(crate) struct Wanted<'a> {
    pub(crate) working_directory: &'a str,
    /// Where programs are looked for by name, in order.
    pub(crate) path_directories: &'a [String],
    /// Files that the agent must not change: the policy, our own programs.
    pub(crate) guarded: &'a [String],
    /// What it must not read either: the audit log's directory.
    pub(crate) hidden: &'a [String],
}

/// Looks everything up.
pub(crate) fn locate(compiled: &Compiled, wanted: &Wanted<'_>) -> Result<Places, PlacesError> {
    let mut budget = MOST_ENTRIES;
    let mut places = Places {
        working_directory: follow(wanted.working_directory)?,
        ..Places::default()
    };
    let mut own = Vec::new();
    for rule in compiled
        .grants
        .iter()
        .chain(&executions(compiled, Verdict::Allow))
    {
        let located = locate_grant(rule, &mut budget)?;
        if !rule.private && !rule.rule.is_built_in() {
            own.extend(located.places.iter().map(|place| place.path().to_owned()));
        }
        places.grants.push(located);
    }
    let denials = [
        compiled.denials.clone(),
        executions(compiled, Verdict::Deny),
    ]
    .concat();
    let holds = [compiled.holds.clone(), executions(compiled, Verdict::Ask)].concat();
    places.denials = locate_refusals(&denials, &own, &mut budget)?;
    places.holds = locate_refusals(&holds, &own, &mut budget)?;
    for rule in &compiled.programs {
        if let Program::Name(name) = &rule.program
            && !places.programs.contains_key(name)
        {
            let found = find_program(name, wanted.path_directories)?;
            places.programs.insert(name.clone(), found);
        }
    }
    places.loaders = existing(&LOADERS)?;
    places.proc = existing(&PROC_MASKED)?;
    places.proc.extend(existing(&PROC_READ_ONLY)?);
    places.devices = existing(&DEVICES)?;
    for path in wanted.guarded {
        places.guarded.extend(follow(path)?);
    }
    for path in wanted.hidden {
        places.hidden.extend(follow(path)?);
    }
    hard_links::cover_every_name(&mut places, &own, &mut budget)?;
    places.named_elsewhere = hard_links::named_elsewhere(&places.grants);
    Ok(places)
}

/// The rules about executing files by their paths, as rules about files. A program that is withheld by its name is
/// withheld at every place; one that is allowed by its name is looked for on the `PATH` instead.
pub(crate) fn executions(compiled: &Compiled, verdict: Verdict) -> Vec<PathRule> {
    let of_verdict = compiled
        .programs
        .iter()
        .filter(|rule| rule.verdict == verdict);
    of_verdict
        .filter_map(|rule| {
            let pattern = match &rule.program {
                Program::Path(pattern) => pattern.clone(),
                Program::Name(name) if verdict != Verdict::Allow => {
                    PathPattern::parse(name).ok()?
                }
                Program::Name(_) | Program::Digest(_) => return None,
            };
            Some(PathRule {
                rule: rule.rule,
                access: FileAccess::EXECUTE,
                pattern,
                private: false,
            })
        })
        .collect()
}

fn locate_grant(rule: &PathRule, budget: &mut usize) -> Result<Located, PlacesError> {
    let pattern = &rule.pattern;
    let mut places = Vec::new();
    match pattern.tail {
        _ if rule.private => {}
        Tail::This | Tail::Beneath => places.extend(follow(pattern.anchor.as_str())?),
        Tail::Glob => expand(pattern, &mut places, budget)?,
        // Planning says that it grants nothing.
        Tail::Name => {}
    }
    Ok(Located {
        rule: rule.clone(),
        open_ended: matches!(pattern.tail, Tail::Glob | Tail::Name),
        places,
    })
}

/// Denials matter only inside what is granted, so only that is searched for the
/// patterns that have no place of their own.
fn locate_refusals(
    rules: &[PathRule],
    granted: &[String],
    budget: &mut usize,
) -> Result<Vec<Located>, PlacesError> {
    let mut located = Vec::new();
    for rule in rules {
        let pattern = &rule.pattern;
        let mut places = Vec::new();
        match pattern.tail {
            Tail::This | Tail::Beneath => places.extend(follow(pattern.anchor.as_str())?),
            Tail::Glob | Tail::Name => {
                for root in outermost(granted) {
                    search(pattern, root, &mut places, budget)?;
                }
            }
        }
        let open_ended = matches!(pattern.tail, Tail::Glob | Tail::Name) || places.is_empty();
        located.push(Located {
            rule: rule.clone(),
            places,
            open_ended,
        });
    }
    Ok(located)
}

/// The paths that lie in no other of them.
pub(crate) fn outermost(paths: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
    sorted.sort_unstable_by_key(|path| path.len());
    let mut outer: Vec<&str> = Vec::new();
    for path in sorted {
        if !outer.iter().any(|root| is_within(path, root)) {
            outer.push(path);
        }
    }
    outer
}

/// Whether `path` is `tree` or lies in it; both absolute and normal.
pub(crate) fn is_within(path: &str, tree: &str) -> bool {
    match path.strip_prefix(tree.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Every path below the anchor that the pattern names, not looking into what is
/// named already.
fn expand(
    pattern: &PathPattern,
    found: &mut Vec<Place>,
    budget: &mut usize,
) -> Result<(), PlacesError> {
    let prefixes = prefixes(pattern);
    let mut waiting = vec![pattern.anchor.as_str().to_owned()];
    while let Some(directory) = waiting.pop() {
        let below = depth(&directory).saturating_sub(depth(pattern.anchor.as_str()));
        for name in children(&directory, budget)? {
            let path = join(&directory, &name);
            if pattern.matches(&path) {
                found.extend(follow(&path)?);
            } else if below < DEEPEST
                && prefixes
                    .get(below)
                    .is_none_or(|prefix| prefix.matches(&join(&path, PROBE)))
                && is_directory(&path)
            {
                waiting.push(path);
            }
        }
    }
    found.sort();
    Ok(())
}

/// Every path in a tree that a denial covers, without what lies below one.
fn search(
    pattern: &PathPattern,
    root: &str,
    found: &mut Vec<Place>,
    budget: &mut usize,
) -> Result<(), PlacesError> {
    let mut waiting = vec![PathBuf::from(root)];
    while let Some(path) = waiting.pop() {
        let Some(status) = status(&path)? else {
            continue;
        };
        // What is no text in a name stands for itself, so that patterns match the rest of it.
        if pattern.covers(&path.to_string_lossy()) {
            // The link itself is what has the name; where it leads has its own rules.
            if !status.is_symlink() {
                let path = path.to_str().ok_or_else(|| PlacesError::NotText {
                    path: path.to_string_lossy().into_owned(),
                })?;
                found.extend(follow(path)?);
            }
        } else if status.is_dir() {
            waiting.extend(entries(&path, budget)?);
        }
    }
    found.sort();
    Ok(())
}

/// A component that stands for any below a prefix.
const PROBE: &str = "\u{1}";

/// For each depth below the anchor, a pattern for the directories there that may
/// hold what is named. Ends where `**` lets anything follow.
fn prefixes(pattern: &PathPattern) -> Vec<PathPattern> {
    let anchor = depth(pattern.anchor.as_str());
    let components: Vec<&str> = pattern
        .text
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let mut prefixes = Vec::new();
    for end in anchor + 1..components.len() {
        if components.get(end - 1) == Some(&"**") {
            break;
        }
        let text = format!(
            "/{}/{PROBE}",
            components.get(..end).unwrap_or_default().join("/")
        );
        match PathPattern::parse(&text) {
            Ok(prefix) => prefixes.push(prefix),
            Err(_) => break,
        }
    }
    prefixes
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// Not following links, so that a search cannot be led out of its tree.
fn is_directory(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|status| status.is_dir())
}

/// Not following a link; nothing when it is gone or out of the agent's reach.
fn status(path: &Path) -> Result<Option<fs::Metadata>, PlacesError> {
    let directory = path.parent().unwrap_or(path);
    match fs::symlink_metadata(path) {
        Ok(status) => Ok(Some(status)),
        Err(error) if is_absence(&error, directory) => Ok(None),
        Err(source) => Err(unresolved(directory, source)),
    }
}

/// Names in a directory; none in one that cannot be listed, where nothing is granted then.
fn children(directory: &str, budget: &mut usize) -> Result<Vec<String>, PlacesError> {
    let paths = match entries(Path::new(directory), budget) {
        Err(PlacesError::Closed { .. }) => Vec::new(),
        other => other?,
    };
    // A name that is not text is granted by no pattern.
    let names = paths
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.collect())
}

/// Paths in a directory; none in one that is gone or out of the agent's reach.
fn entries(directory: &Path, budget: &mut usize) -> Result<Vec<PathBuf>, PlacesError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // One that lets the agent through to names that it knows is not out of its reach.
        Err(error) if is_absence(&error, directory) && !is_passable(directory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(unresolved(directory, source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        *budget = budget.checked_sub(1).ok_or(PlacesError::TooMany)?;
        let entry = entry.map_err(|source| unresolved(directory, source))?;
        paths.push(entry.path());
    }
    Ok(paths)
}

fn is_passable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::EXEC_OK).is_ok()
}

fn unresolved(path: &Path, source: io::Error) -> PlacesError {
    let path = path.to_string_lossy().into_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => PlacesError::Closed { path },
        _ => PlacesError::Resolve { path, source },
    }
}

pub(crate) fn existing(paths: &[&str]) -> Result<Vec<Place>, PlacesError> {
    let mut places = Vec::new();
    for path in paths {
        places.extend(follow(path)?);
    }
    Ok(places)
}

/// Follows a path to its end; nothing when there is nothing.
pub(crate) fn follow(named: &str) -> Result<Option<Place>, PlacesError> {
    let failed = |source| PlacesError::Resolve {
        path: named.to_owned(),
        source,
    };
    let mut waiting: VecDeque<String> = components(named);
    let mut canonical = String::new();
    let mut links = Vec::new();
    while let Some(component) = waiting.pop_front() {
        if component == ".." {
            canonical.truncate(canonical.rfind('/').unwrap_or(0));
            continue;
        }
        let next = format!("{canonical}/{component}");
        let status = match fs::symlink_metadata(&next) {
            Ok(status) => status,
            Err(error) if is_absence(&error, &parent(&canonical)) => return Ok(None),
            Err(error) => return Err(unresolved(&parent(&canonical), error)),
        };
        if !status.is_symlink() {
            canonical = next;
            continue;
        }
        let target = fs::read_link(&next).map_err(failed)?;
        let target = target.to_str().ok_or_else(|| PlacesError::NotText {
            path: named.to_owned(),
        })?;
        links.push(next);
        if links.len() > MOST_LINKS {
            return Err(failed(io::Error::from_raw_os_error(
                rustix::io::Errno::LOOP.raw_os_error(),
            )));
        }
        if target.starts_with('/') {
            canonical.clear();
        }
        for component in components(target).into_iter().rev() {
            waiting.push_front(component);
        }
    }
    if canonical.is_empty() {
        canonical.push('/');
    }
    let opened = openat2(
        CWD,
        &*canonical,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) if is_absence(&error.into(), &parent(&canonical)) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let status = fstat(&opened).map_err(|error| failed(error.into()))?;
    let kind = fs::File::from(opened)
        .metadata()
        .map_err(failed)?
        .file_type();
    if kind.is_symlink() {
        // It was none a moment ago: somebody exchanges it while we look.
        return Err(failed(io::Error::other(
            "it changed while it was looked up; start again",
        )));
    }
    Ok(Some(Place {
        named: named.to_owned(),
        source: Source {
            path: canonical,
            device: status.st_dev,
            inode: status.st_ino,
        },
        kind: if kind.is_dir() {
            Kind::Directory
        } else if kind.is_file() {
            Kind::File
        } else if kind.is_char_device() || kind.is_block_device() {
            Kind::Device
        } else {
            Kind::Other
        },
        links,
    }))
}

/// Absent, or in a directory that is closed to the agent for good, who has the person's rights. One that the person
/// owns is not: an agent could open it. Nor is one that is closed to root, which the person may be free to enter.
fn is_absence(error: &io::Error, directory: &Path) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => {
            let own = rustix::process::geteuid().as_raw();
            let of_others = |status: fs::Metadata| status.uid() != own;
            own != 0 && fs::symlink_metadata(directory).is_ok_and(of_others)
        }
        _ => false,
    }
}

/// The directory of which the next component is looked up.
fn parent(canonical: &str) -> PathBuf {
    PathBuf::from(if canonical.is_empty() { "/" } else { canonical })
}

fn components(path: &str) -> VecDeque<String> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .map(str::to_owned)
        .collect()
}

/// Every executable file of this name in the directories, in their order; one file under two names counts once.
pub(crate) fn find_program(
    name: &str,
    directories: &[String],
) -> Result<Vec<Executable>, PlacesError> {
    let mut found: Vec<Executable> = Vec::new();
    for directory in directories {
        if let Some(executable) = executable(&join(directory, name))?
            && !found
                .iter()
                .any(|other| other.place.path() == executable.place.path())
        {
            found.push(executable);
        }
    }
    Ok(found)
}

/// The executable file at a path.
pub(crate) fn executable(path: &str) -> Result<Option<Executable>, PlacesError> {
    let Some(place) = follow(path)? else {
        return Ok(None);
    };
    let runnable = fs::metadata(place.path())
        .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0);
    if !runnable {
        return Ok(None);
    }
    let interpreter = match interpreter(Path::new(place.path())) {
        None => None,
        Some(interpreter) => {
            let place = follow(&interpreter)?;
            Some((interpreter, place))
        }
    };
    Ok(Some(Executable { place, interpreter }))
}

/// The program that a script's first line names (execve(2), "Interpreter scripts").
fn interpreter(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut start = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(256)
        .read_to_end(&mut start)
        .ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_ascii_whitespace().next().map(str::to_owned)
}
