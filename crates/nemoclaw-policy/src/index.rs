//! Finds the rules that can speak of an action, so that a decision does not grow with the number
//! of rules that cannot.
//!
//! Rules about files hang in a tree of path components at their anchors: only those on the way to
//! a path are looked at. Rules by a literal name are found by that name.

use std::collections::HashMap;

use crate::bind::{BoundRule, BoundSubject};
use crate::host::{Host, HostMatch, HostPattern};
use crate::pattern::{PathPattern, Tail};
use crate::program::Program;

/// The positions of rules, by what they speak of.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Index {
    files: Patterns,
    program_paths: Patterns,
    program_names: HashMap<String, Vec<usize>>,
    network: Hosts,
    external: Hosts,
}

impl Index {
    pub(crate) fn new(rules: &[BoundRule]) -> Self {
        let mut index = Self::default();
        for (position, rule) in rules.iter().enumerate() {
            match &rule.subject {
                BoundSubject::Files { pattern, .. } => index.files.add(pattern, position),
                BoundSubject::Execute(Program::Path(pattern)) => {
                    index.program_paths.add(pattern, position);
                }
                BoundSubject::Execute(Program::Name(name)) => {
                    index
                        .program_names
                        .entry(name.clone())
                        .or_default()
                        .push(position);
                }
                BoundSubject::Network(pattern) => index.network.add(pattern, position),
                BoundSubject::External(pattern) => index.external.add(pattern, position),
                BoundSubject::Execute(Program::Digest(_)) | BoundSubject::Other => {}
            }
        }
        index
    }

    /// Rules about files that may speak of this path; each must still be asked.
    pub(crate) fn files(&self, path: &[&str], visit: impl FnMut(usize)) {
        self.files.visit(path, visit);
    }

    /// Rules about programs that may speak of this path; each must still be asked.
    pub(crate) fn programs(&self, path: &[&str], mut visit: impl FnMut(usize)) {
        if !self.program_names.is_empty() {
            for name in path {
                self.program_names
                    .get(*name)
                    .into_iter()
                    .flatten()
                    .copied()
                    .for_each(&mut visit);
            }
        }
        self.program_paths.visit(path, visit);
    }

    /// `network_access` rules that may speak of this host; each must still be asked.
    pub(crate) fn network(&self, host: &Host, visit: impl FnMut(usize)) {
        self.network.visit(host, visit);
    }

    /// `external_network` rules that may speak of this host; each must still be asked.
    pub(crate) fn external(&self, host: &Host, visit: impl FnMut(usize)) {
        self.external.visit(host, visit);
    }
}

/// Path patterns by their anchors, names by themselves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Patterns {
    // INVARIANT: never empty; the first is the root, and every child is a position in it.
    nodes: Vec<TrieNode>,
    names: HashMap<String, Vec<usize>>,
    name_globs: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct TrieNode {
    children: HashMap<String, usize>,
    rules: Vec<usize>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self {
            nodes: vec![TrieNode::default()],
            names: HashMap::new(),
            name_globs: Vec::new(),
        }
    }
}

impl Patterns {
    pub(crate) fn add(&mut self, pattern: &PathPattern, position: usize) {
        if pattern.tail == Tail::Name {
            match pattern.literal_name() {
                Some(name) => self
                    .names
                    .entry(name.to_owned())
                    .or_default()
                    .push(position),
                None => self.name_globs.push(position),
            }
            return;
        }
        let mut at = 0;
        for name in pattern.anchor.components() {
            let next = self.nodes.len();
            let child = match self.nodes.get_mut(at) {
                Some(node) => *node.children.entry(name.to_owned()).or_insert(next),
                None => return,
            };
            if child == next {
                self.nodes.push(TrieNode::default());
            }
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.rules.push(position);
        }
    }

    /// Every pattern whose anchor is the path or holds it, and every name that may be in it. A
    /// rule is visited once, or once for each time that its name stands in the path.
    pub(crate) fn visit(&self, path: &[&str], mut visit: impl FnMut(usize)) {
        let mut node = self.nodes.first();
        let mut names = path.iter();
        while let Some(current) = node {
            current.rules.iter().copied().for_each(&mut visit);
            node = names
                .next()
                .and_then(|name| current.children.get(*name))
                .and_then(|child| self.nodes.get(*child));
        }
        if !self.names.is_empty() {
            for name in path {
                self.names
                    .get(*name)
                    .into_iter()
                    .flatten()
                    .copied()
                    .for_each(&mut visit);
            }
        }
        self.name_globs.iter().copied().for_each(&mut visit);
    }
}

/// Host patterns by their names.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Hosts {
    names: HashMap<String, Vec<usize>>,
    parents: HashMap<String, Vec<usize>>,
    networks: Vec<usize>,
    any: Vec<usize>,
}

impl Hosts {
    pub(crate) fn add(&mut self, pattern: &HostPattern, position: usize) {
        match &pattern.host {
            HostMatch::Any => self.any.push(position),
            HostMatch::Name(name) => self.names.entry(name.clone()).or_default().push(position),
            HostMatch::Subdomains(parent) => {
                self.parents
                    .entry(parent.clone())
                    .or_default()
                    .push(position);
            }
            HostMatch::Network { .. } => self.networks.push(position),
        }
    }

    pub(crate) fn visit(&self, host: &Host, mut visit: impl FnMut(usize)) {
        self.any.iter().copied().for_each(&mut visit);
        match host {
            Host::Name(name) => {
                self.names
                    .get(name)
                    .into_iter()
                    .flatten()
                    .copied()
                    .for_each(&mut visit);
                let mut rest = name.as_str();
                while let Some((_, parent)) = rest.split_once('.') {
                    self.parents
                        .get(parent)
                        .into_iter()
                        .flatten()
                        .copied()
                        .for_each(&mut visit);
                    rest = parent;
                }
            }
            Host::Address(_) => self.networks.iter().copied().for_each(&mut visit),
        }
    }

    /// Every pattern that may include this one.
    pub(crate) fn visit_wider(&self, pattern: &HostPattern, visit: impl FnMut(usize)) {
        let host = match &pattern.host {
            HostMatch::Any => return self.any.iter().copied().for_each(visit),
            HostMatch::Name(name) => Host::Name(name.clone()),
            // Some subdomain: what names its parents may include all of them.
            HostMatch::Subdomains(parent) => Host::Name(format!("*.{parent}")),
            HostMatch::Network { base, .. } => Host::Address(*base),
        };
        self.visit(&host, visit);
    }
}
