//! Holds the crates to the directions in which they may depend on each other, and unsafe code to
//! the crates that are its fence.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Which of our crates each may use. A crate that is not listed may use none.
///
/// `nemoclaw-sandbox` stands alone, so that `nemoclaw-init` links no YAML, no TLS and no policy;
/// `nemoclaw-policy` knows only the words that the kernel side shares.
const MAY_USE: &[(&str, &[&str])] = &[
    ("nemoclaw-common", &[]),
    ("nemoclaw-policy", &["nemoclaw-common"]),
    ("nemoclaw-sandbox", &[]),
    ("nemoclaw-audit", &["nemoclaw-policy"]),
    ("nemoclaw-egress", &["nemoclaw-policy"]),
    (
        "nemoclaw-supervisor",
        &[
            "nemoclaw-audit",
            "nemoclaw-common",
            "nemoclaw-egress",
            "nemoclaw-policy",
            "nemoclaw-sandbox",
        ],
    ),
    // The behaviour tests see the programs from outside, as people do.
    ("nemoclaw-tests", &[]),
    ("xtask", &[]),
];

/// Where unsafe code may stand: where the kernel is called without a safe wrapper, and in the probe.
const UNSAFE: [&str; 2] = ["nemoclaw-sandbox", "nemoclaw-probe"];

/// What no code that runs as root between fork and exec may link.
const NOT_IN_THE_SANDBOX: [&str; 6] = ["granit-parser", "hyper", "rustls", "tokio", "clap", "jiff"];

fn metadata() -> cargo_metadata::Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.other_options(vec!["--locked".to_owned()]);
    command.exec()
}

fn uses<'m>(package: &'m Package, ours: &BTreeSet<&str>) -> BTreeSet<&'m str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| ours.contains(name))
        .collect()
}

#[test]
fn crates_depend_on_each_other_only_in_the_directions_of_the_architecture() {
    let metadata = metadata().unwrap();
    let packages = metadata.workspace_packages();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let may_use = allowed.get(name).copied().unwrap_or_default();
        for used in uses(package, &ours) {
            if !may_use.contains(&used) {
                wrong.push(format!("`{name}` depends on `{used}`"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_crate_has_its_place_among_the_directions() {
    let metadata = metadata().unwrap();
    let packages = metadata.workspace_packages();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let placed: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, placed);
}

#[test]
fn the_sandbox_links_no_yaml_no_tls_and_no_runtime() {
    let metadata = metadata().unwrap();
    let graph = metadata.resolve.as_ref().unwrap();
    let node = |id: &cargo_metadata::PackageId| graph.nodes.iter().find(|node| node.id == *id);
    let start = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == "nemoclaw-sandbox")
        .unwrap();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![start.id.clone()];
    while let Some(id) = waiting.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in &node(&id).unwrap().deps {
            let normal = dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal);
            if normal {
                waiting.push(dependency.pkg.clone());
            }
        }
    }
    let linked: BTreeSet<&str> = metadata
        .packages
        .iter()
        .filter(|package| seen.contains(&package.id))
        .map(|package| package.name.as_str())
        .collect();
    assert!(
        linked.contains("rustix"),
        "the walk found what is surely linked: {linked:?}"
    );
    let wrong: Vec<&str> = NOT_IN_THE_SANDBOX
        .into_iter()
        .filter(|name| linked.contains(name))
        .collect();
    assert_eq!(wrong, Vec::<&str>::new());
}

#[test]
fn unsafe_code_stands_only_behind_its_fence() {
    let metadata = metadata().unwrap();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        if UNSAFE.contains(&package.name.as_str()) {
            continue;
        }
        let built = package
            .targets
            .iter()
            .filter(|target| target.is_lib() || target.is_bin())
            .filter(|target| !UNSAFE.contains(&target.name.as_str()));
        for target in built {
            let text = std::fs::read_to_string(&target.src_path).unwrap();
            if !text.lines().any(|line| line == "#![forbid(unsafe_code)]") {
                wrong.push(format!("`{}` does not forbid unsafe code", target.src_path));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
