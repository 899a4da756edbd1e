//! One headless turn of OpenClaw against the scripted model, and the proof that it did its work.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::endpoint::{Endpoint, Observed, Script};
use super::install::Installation;
use crate::process::{self, Finished};
use crate::workspace::Owner;

/// How long one turn may take; on two busy cores it was seen to take a minute.
const LIMIT: Duration = Duration::from_secs(300);
/// The file that the agent is made to write.
const FILE: &str = "written-by-openclaw.txt";
/// The agent's name in the shipped policy; its audit log is named after it.
const AGENT: &str = "openclaw";
/// The endpoint's address as the shipped policy has it; the port is replaced by the scripted one's.
const SHIPPED_ENDPOINT: &str = "http://127.0.0.1:8080/v1";
/// The cache as the shipped policy has it.
const SHIPPED_CACHE: &str = "~/.cache/nemoclaw/";

/// What stands around the agent.
#[derive(Debug, Clone)]
pub(crate) enum Jail {
    /// Nothing.
    None,
    /// Our supervisor.
    Supervisor {
        /// The directory of the built programs.
        programs: PathBuf,
        /// The policy as shipped.
        policy: PathBuf,
        /// The cache that OpenClaw is installed in.
        cache: PathBuf,
    },
}

/// A turn that was proved to have done its work.
#[derive(Debug)]
pub(crate) struct Turn {
    file: PathBuf,
    owner: u32,
    answer: String,
    observed: Observed,
    elapsed: Duration,
    audit: Option<String>,
}

impl fmt::Display for Turn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "OpenClaw finished a turn in {:.1} s",
            self.elapsed.as_secs_f64()
        )?;
        writeln!(
            out,
            "  model requests  {} (largest {} bytes, {} tools offered)",
            self.observed.completions, self.observed.largest_request, self.observed.tools_offered
        )?;
        writeln!(
            out,
            "  its answer      {}",
            self.answer.replace('\n', " | ")
        )?;
        write!(
            out,
            "  it wrote        {} (owner: user {})",
            self.file.display(),
            self.owner
        )?;
        if let Some(audit) = &self.audit {
            write!(
                out,
                "\n  audit verify    {}",
                audit.trim_end().replace('\n', " | ")
            )?;
        }
        Ok(())
    }
}

/// Runs one turn in a fresh workspace under `home`, which is emptied first.
pub(crate) fn take(installation: &Installation, jail: &Jail, home: &Path) -> Result<Turn> {
    let place = Place::make(home)?;
    let nonce = nonce()?;
    let key = format!("key-{nonce}");
    let outside = place.root.join("outside.txt");
    fs::write(&outside, "the policy does not name this file\n")?;
    let endpoint = Endpoint::start(Script {
        key: key.clone(),
        command: format!(
            "printf '%s\\n' 'proof-{nonce}' > {FILE}; \
             if cat '{}' > /dev/null 2>&1; then echo outside-readable; else echo outside-refused; fi; \
             env > environment.txt; cat {FILE}",
            outside.display()
        ),
        path: FILE.to_owned(),
    })?;
    let mut command = command(installation, jail, &place, endpoint.port(), &key)?;
    process::say(&format!("+ {}", process::describe(&command)));
    let finished = process::run_within(&mut command, LIMIT)?;
    let observed = endpoint.observed();
    let answer = judge(&finished, &observed, &nonce, jail)?;
    let (file, owner) = judge_file(&place.workspace, &nonce, &key, jail)?;
    let audit = match jail {
        Jail::None => None,
        Jail::Supervisor { programs, .. } => Some(verify(programs, &place.audit)?),
    };
    Ok(Turn {
        file,
        owner,
        answer,
        observed,
        elapsed: finished.elapsed,
        audit,
    })
}

/// The directories of one turn.
struct Place {
    root: PathBuf,
    workspace: PathBuf,
    audit: PathBuf,
}

impl Place {
    fn make(home: &Path) -> Result<Self> {
        if home.exists() {
            fs::remove_dir_all(home)
                .with_context(|| format!("could not empty `{}`", home.display()))?;
        }
        let place = Self {
            root: home.to_owned(),
            workspace: home.join("workspace"),
            audit: home.join("audit"),
        };
        for directory in [&place.workspace, &place.audit] {
            fs::create_dir_all(directory)
                .with_context(|| format!("could not create `{}`", directory.display()))?;
        }
        Owner::invoking().take(&place.workspace)?;
        Ok(place)
    }
}

/// A number that no earlier turn had.
fn nonce() -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("{:x}-{:x}", now.as_nanos(), std::process::id()))
}

fn command(
    installation: &Installation,
    jail: &Jail,
    place: &Place,
    port: u16,
    key: &str,
) -> Result<Command> {
    let (base_url, placeholder) = match jail {
        Jail::None => (format!("http://127.0.0.1:{port}/v1"), key),
        Jail::Supervisor { .. } => ("http://inference.local/v1".to_owned(), "placeholder"),
    };
    let configuration = place.workspace.join("openclaw.json");
    fs::write(&configuration, configure(&base_url, placeholder))?;
    Owner::invoking().take(&configuration)?;
    let mut command = match jail {
        Jail::None => {
            let mut command = Command::new(installation.programs.join("openclaw"));
            let home = place.root.join("home");
            fs::create_dir_all(&home)?;
            command
                .env_clear()
                .env("HOME", home)
                .env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command
        }
        Jail::Supervisor {
            programs,
            policy,
            cache,
        } => {
            let shipped = fs::read_to_string(policy)
                .with_context(|| format!("could not read `{}`", policy.display()))?;
            let adapted = place.root.join("policy.yaml");
            fs::write(&adapted, adapt(&shipped, port, cache, &place.audit)?)?;
            let mut command = Command::new(programs.join("nemoclaw-supervisor"));
            command.arg("run").arg("--policy").arg(adapted);
            command
                .arg("--")
                .arg(installation.programs.join("openclaw"));
            command.env("OPENAI_API_KEY", key);
            command
        }
    };
    command
        .current_dir(&place.workspace)
        .args([
            "agent",
            "exec",
            "Write a file with your exec tool and read it back.",
        ])
        .arg("--config")
        .arg(&configuration)
        .args(["--model", "local/local", "--json", "--cwd"])
        .arg(&place.workspace);
    Ok(command)
}

/// OpenClaw's configuration: one provider, one model.
fn configure(base_url: &str, key: &str) -> String {
    let free = json!({"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0});
    let model = json!({
        "id": "local", "name": "local", "reasoning": false, "input": ["text"], "cost": free,
        "contextWindow": 32768, "maxTokens": 2048,
    });
    let provider = json!({
        "baseUrl": base_url, "apiKey": key, "api": "openai-completions", "models": [model],
    });
    json!({
        "models": {"mode": "merge", "providers": {"local": provider}},
        "agents": {"defaults": {"model": {"primary": "local/local"}}},
    })
    .to_string()
}

/// The shipped policy, with this run's endpoint, cache and audit log.
fn adapt(shipped: &str, port: u16, cache: &Path, audit: &Path) -> Result<String> {
    for (what, text) in [("endpoint", SHIPPED_ENDPOINT), ("cache", SHIPPED_CACHE)] {
        ensure!(
            shipped.contains(text),
            "the shipped policy names no {what} `{text}`; keep it and `xtask/src/openclaw/turn.rs` alike"
        );
    }
    let adapted = shipped
        .replace(SHIPPED_ENDPOINT, &format!("http://127.0.0.1:{port}/v1"))
        .replace(SHIPPED_CACHE, &format!("{}/", cache.display()));
    let path = Value::from(audit.to_string_lossy().into_owned());
    Ok(format!(
        "{}\n  audit:\n    path: {path}\n",
        adapted.trim_end()
    ))
}

fn judge(finished: &Finished, observed: &Observed, nonce: &str, jail: &Jail) -> Result<String> {
    let told = || process::tail(&finished.stderr, 40);
    ensure!(
        finished.status.success(),
        "OpenClaw did not succeed: {}; its last words:\n{}\n{}",
        finished.status,
        process::tail(&finished.stdout, 20),
        told()
    );
    ensure!(
        observed.faults.is_empty(),
        "the model endpoint found fault:\n{}",
        observed.faults.join("\n")
    );
    ensure!(
        observed.tool_results.len() >= 2,
        "the tool loop did not finish: {} of 2 tools answered; last words:\n{}",
        observed.tool_results.len(),
        told()
    );
    let envelope: Value = serde_json::from_str(&finished.stdout)
        .context("OpenClaw's answer is not the JSON that `--json` promises")?;
    let answer = envelope
        .get("final")
        .and_then(Value::as_str)
        .context("OpenClaw's answer holds no text in `final`")?;
    let proof = format!("proof-{nonce}");
    ensure!(
        answer.matches(&proof).count() >= 2,
        "the answer does not hold what both tools returned: {answer}"
    );
    let expected = match jail {
        Jail::None => "outside-readable",
        Jail::Supervisor { .. } => "outside-refused",
    };
    ensure!(
        answer.contains(expected),
        "the agent should have found the file outside `{expected}`: {answer}"
    );
    Ok(answer.to_owned())
}

fn judge_file(workspace: &Path, nonce: &str, key: &str, jail: &Jail) -> Result<(PathBuf, u32)> {
    let file = workspace.join(FILE);
    let written = fs::read_to_string(&file)
        .with_context(|| format!("the agent left no `{}`", file.display()))?;
    ensure!(
        written == format!("proof-{nonce}\n"),
        "`{}` holds something else: {written}",
        file.display()
    );
    let owner = fs::metadata(&file)?.uid();
    let expected = match jail {
        Jail::None => rustix::process::getuid().as_raw(),
        Jail::Supervisor { .. } => Owner::invoking().user,
    };
    ensure!(
        owner == expected,
        "`{}` belongs to user {owner}, not to user {expected} who started this",
        file.display()
    );
    let environment = fs::read_to_string(workspace.join("environment.txt"))
        .context("the agent left no list of its environment")?;
    if matches!(jail, Jail::Supervisor { .. }) && environment.contains(key) {
        bail!("the real key was in the agent's environment");
    }
    Ok((file, owner))
}

fn verify(programs: &Path, audit: &Path) -> Result<String> {
    let log = audit.join(format!("{AGENT}.jsonl"));
    process::output(
        Command::new(programs.join("nemoclaw-supervisor"))
            .args(["audit", "verify"])
            .arg(&log),
    )
    .with_context(|| format!("the audit log `{}` is not clean", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../policies/openclaw.yaml");

    #[test]
    fn the_shipped_policy_and_the_copy_for_a_turn_are_both_accepted_without_a_warning() {
        let copy = adapt(SHIPPED, 4711, Path::new("/c"), Path::new("/turn/audit")).unwrap();
        for text in [SHIPPED, &copy] {
            let policy = nemoclaw_policy::Policy::parse(text).unwrap();
            assert_eq!(policy.name.to_string(), AGENT);
            assert_eq!(policy.warnings, []);
        }
        let policy = nemoclaw_policy::Policy::parse(&copy).unwrap();
        assert_eq!(policy.audit.path.as_deref(), Some("/turn/audit"));
        let upstream = policy.models.upstream.unwrap();
        assert_eq!(upstream.url, "http://127.0.0.1:4711/v1");
        assert!(!copy.contains("~/.cache"), "{copy}");
    }

    #[test]
    fn a_policy_that_lost_what_a_turn_replaces_is_refused() {
        let other = SHIPPED.replace("8080", "8081");
        let error = adapt(&other, 1, Path::new("/c"), Path::new("/a")).unwrap_err();
        assert!(error.to_string().contains(SHIPPED_ENDPOINT), "{error}");
    }
}
