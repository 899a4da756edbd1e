//! Finds links in our Markdown files that lead nowhere.
//!
//! Only links within the checkout are followed: a check must not fail because a stranger's server
//! is down.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Directories that hold nothing of ours.
const FOREIGN: [&str; 3] = ["target", ".git", ".cache"];

/// Checks every Markdown file under `root`; all dead links are told at once.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut dead = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)
            .with_context(|| format!("could not read `{}`", file.display()))?;
        for (line, link) in links(&text) {
            if let Some(fault) = fault(root, file, &text, &link)? {
                let name = file.strip_prefix(root).unwrap_or(file).display();
                dead.push(format!("{name}:{line}: `{link}` {fault}"));
            }
        }
    }
    if dead.is_empty() {
        Ok(())
    } else {
        bail!("dead links:\n{}", dead.join("\n"))
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)
        .with_context(|| format!("could not list `{}`", directory.display()))?
    {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() && !FOREIGN.iter().any(|foreign| name == *foreign) {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && entry.path().extension().is_some_and(|end| end == "md") {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Why `link`, found in `file`, leads nowhere.
fn fault(root: &Path, file: &Path, text: &str, link: &str) -> Result<Option<String>> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path.strip_prefix('/') {
        Some(path) => root.join(path),
        None => file.parent().unwrap_or(root).join(path),
    };
    if !path.is_empty() && !target.exists() {
        return Ok(Some("does not exist".to_owned()));
    }
    if anchor.is_empty() || (!path.is_empty() && target.extension().is_none_or(|end| end != "md")) {
        return Ok(None);
    }
    let found = if path.is_empty() {
        anchors(text).contains(anchor)
    } else {
        anchors(&fs::read_to_string(&target)?).contains(anchor)
    };
    Ok((!found).then(|| format!("names no heading `{anchor}`")))
}

/// The targets of `[text](target)` outside code, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut outside_code = String::new();
        for (index, part) in line.split('`').enumerate() {
            outside_code.push_str(if index % 2 == 0 { part } else { "code" });
        }
        let mut rest = outside_code.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let Some(end) = rest.find(')') else { break };
            let target = rest[..end].split_whitespace().next().unwrap_or_default();
            found.push((number, target.to_owned()));
            rest = &rest[end..];
        }
    }
    found
}

/// The lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

/// The anchors that a Markdown viewer gives the headings of `text`.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|letter| match letter {
                    ' ' => Some('-'),
                    '-' | '_' => Some(letter),
                    _ => letter.is_alphanumeric().then_some(letter),
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_is_told_with_its_file_and_line() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/there.md"), "# A heading, here\n").unwrap();
        fs::write(
            root.path().join("README.md"),
            "[good](docs/there.md) [too](docs/there.md#a-heading-here)\n\
             [far](https://example.org/x) `[code](nowhere)`\n\
             ```\n[fenced](nowhere)\n```\n\
             [bad](docs/gone.md) and [worse](docs/there.md#none)\n",
        )
        .unwrap();
        let error = check(root.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            "dead links:\n\
             README.md:6: `docs/gone.md` does not exist\n\
             README.md:6: `docs/there.md#none` names no heading `none`"
        );
    }

    #[test]
    fn links_that_lead_somewhere_are_accepted() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("a.md"),
            "# One\n[self](#one) [root](/a.md)\n",
        )
        .unwrap();
        check(root.path()).unwrap();
    }
}
