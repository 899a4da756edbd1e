//! What happens, as entries of the audit log. Pure: happenings in, entries out.

use std::collections::BTreeMap;

use nemoclaw_audit::{Decision, Entry};
use nemoclaw_egress::{Finished, Outcome, Refused, Started};
use nemoclaw_policy::{Action, BoundPolicy, Decision as PolicyDecision, Verdict};
use nemoclaw_sandbox::cgroup::{Applied, Usage};
use nemoclaw_sandbox::launch::Ending;
use nemoclaw_sandbox::seccomp::{Architecture, Notification, Profile};
use serde_json::{Map, Value, json};

use crate::plan::report::Report;

/// Distinct refused calls that are told apart; an agent can make up any number of them.
const MOST_DISTINCT: usize = 512;

/// What every entry of one run has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) on_behalf_of: String,
}

impl Run {
    fn entry(&self, action: &str) -> Entry {
        Entry {
            run_id: Some(self.id.clone()),
            agent_id: Some(self.agent.clone()),
            user_on_behalf_of: Some(self.on_behalf_of.clone()),
            ..Entry::new(action)
        }
    }

    /// The agent is about to start: what it is and what will hold. On record before anything of it runs.
    pub(crate) fn launch(&self, command: &[String], report: &Report, digests: &Digests) -> Entry {
        Entry {
            resource: Some(command_line(command)),
            policy_decision: Some(Decision::Allow),
            details: Some(map([
                ("arguments", json!(command)),
                ("enforcement", json!(report.findings)),
                ("notes", json!(report.notes)),
                ("policy", json!(digests.policy_path)),
                ("policy_sha256", json!(digests.policy)),
                ("plan_sha256", json!(digests.plan)),
                ("supervisor", json!(env!("CARGO_PKG_VERSION"))),
            ])),
            ..self.entry("launch")
        }
    }

    /// The command runs.
    pub(crate) fn started(&self, pid: u32, program: &str, limits: &[Applied]) -> Entry {
        Entry {
            pid: Some(pid),
            program: Some(program.to_owned()),
            details: Some(map([("limits", json!(limits))])),
            ..self.entry("start")
        }
    }

    /// No agent came to run. `denied` when the policy or a requirement of it is why.
    pub(crate) fn not_launched(&self, command: &[String], reason: &str, denied: bool) -> Entry {
        Entry {
            resource: Some(command_line(command)),
            policy_decision: Some(if denied {
                Decision::Deny
            } else {
                Decision::Error
            }),
            reason: Some(reason.to_owned()),
            ..self.entry("launch")
        }
    }

    /// The agent has ended.
    pub(crate) fn exit(
        &self,
        ending: Ending,
        usage: Usage,
        milliseconds: u64,
        reason: Option<&str>,
    ) -> Entry {
        let (how, words) = match ending {
            Ending::Exited(status) => {
                (json!({ "status": status }), format!("exit status {status}"))
            }
            Ending::Signalled(signal) => (
                json!({ "signal": signal }),
                format!("ended by signal {signal}"),
            ),
            Ending::Killed => (
                json!({ "killed": true }),
                "killed with its sandbox".to_owned(),
            ),
        };
        Entry {
            reason: Some(match reason {
                Some(reason) => format!("{words}: {reason}"),
                None => words,
            }),
            execution_time_ms: Some(milliseconds),
            details: Some(map([("ending", how), ("usage", json!(usage))])),
            ..self.entry("exit")
        }
    }

    /// A model request wants to leave.
    pub(crate) fn model_request(&self, started: &Started) -> Entry {
        Entry {
            resource: Some(format!(
                "{} http://{}{}",
                started.method, started.host, started.path
            )),
            policy_decision: Some(Decision::Allow),
            rule: Some("models.upstream".to_owned()),
            enforced_by: Some("egress".to_owned()),
            model_used: started.model.clone(),
            details: Some(map([
                ("request", json!(started.id)),
                ("via", json!(started.via)),
                ("peer_port", json!(started.peer_port)),
            ])),
            ..self.entry("model_request")
        }
    }

    /// A model request has ended.
    pub(crate) fn model_response(&self, finished: &Finished) -> Entry {
        let tokens = match (finished.input_tokens, finished.output_tokens) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        };
        let decision = match finished.outcome {
            Outcome::Ok | Outcome::ClientGone | Outcome::ClientError => Decision::Allow,
            Outcome::Refused => Decision::Deny,
            Outcome::Unacknowledged | Outcome::UpstreamError => Decision::Error,
        };
        Entry {
            policy_decision: Some(decision),
            rule: Some("models.upstream".to_owned()),
            enforced_by: Some("egress".to_owned()),
            reason: finished.reason.clone(),
            model_used: finished.model.clone(),
            execution_time_ms: Some(finished.milliseconds),
            cost_tokens: tokens,
            details: Some(map([
                ("request", json!(finished.id)),
                ("outcome", json!(finished.outcome)),
                ("http_status", json!(finished.status)),
                ("request_bytes", json!(finished.request_bytes)),
                ("response_bytes", json!(finished.response_bytes)),
                ("input_tokens", json!(finished.input_tokens)),
                ("output_tokens", json!(finished.output_tokens)),
            ])),
            ..self.entry("model_response")
        }
    }

    /// A model request of which no end was heard, because the worker ended first.
    pub(crate) fn model_request_lost(&self, request: u64) -> Entry {
        Entry {
            policy_decision: Some(Decision::Error),
            reason: Some("the egress worker ended before the request did".to_owned()),
            enforced_by: Some("egress".to_owned()),
            ..self.entry("model_response")
        }
        .with_detail("request", request)
    }

    /// The worker turned a request away.
    pub(crate) fn turned_away(&self, refused: &Refused, policy: &BoundPolicy) -> Entry {
        let elsewhere =
            refused.code == "destination_not_allowed" || refused.code == "connect_refused";
        let decided = elsewhere
            .then(|| destination(&refused.destination))
            .flatten();
        let rule = decided.and_then(|action| named_rule(&policy.evaluate(&action)));
        let edit = if elsewhere {
            "none allows it in this version, the agent reaches its model and its own loopback network only"
        } else {
            "none allows it, the model socket does not serve such requests"
        };
        Entry {
            resource: Some(format!(
                "{} {}{}",
                refused.method, refused.destination, refused.path
            )),
            policy_decision: Some(Decision::Deny),
            rule,
            enforced_by: Some("egress".to_owned()),
            reason: Some(refused.reason.clone()),
            details: Some(map([
                ("code", json!(refused.code)),
                ("http_status", json!(refused.status)),
                ("peer_port", json!(refused.peer_port)),
                ("edit", json!(edit)),
            ])),
            ..self.entry(if elsewhere {
                "connect"
            } else {
                "model_request"
            })
        }
    }

    /// Something that concerns the supervisor itself.
    pub(crate) fn trouble(&self, action: &str, reason: &str) -> Entry {
        Entry {
            policy_decision: Some(Decision::Error),
            reason: Some(reason.to_owned()),
            ..self.entry(action)
        }
    }
}

/// What a launch was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) policy_path: String,
    /// SHA-256 of the policy's text, hexadecimal.
    pub(crate) policy: String,
    /// SHA-256 of the plan as it is handed over, hexadecimal.
    pub(crate) plan: String,
}

/// The rule that decided, as the policy has it.
fn named_rule(decision: &PolicyDecision) -> Option<String> {
    let rule = decision
        .rule
        .as_ref()
        .filter(|_| decision.verdict != Verdict::Allow)?;
    Some(match rule.line {
        Some(line) => format!("{}, line {line}: {}", rule.list.section(), rule.text),
        None => format!("{}: {}", rule.list.section(), rule.text),
    })
}

/// `host` or `host:port` as the action of connecting there.
fn destination(text: &str) -> Option<Action> {
    text.parse().ok().or_else(|| {
        let with_port = [format!("connect:{text}"), format!("connect:{text}:80")];
        with_port.iter().find_map(|text| text.parse().ok())
    })
}

/// The system calls that were refused: each distinct one is recorded when it is first seen and whenever its count has
/// doubled, so that an agent that repeats itself fills neither the log nor the memory, and a log that ends early still
/// tells the count to within a factor of two.
#[derive(Debug, Default)]
pub(crate) struct RefusedCalls {
    seen: BTreeMap<(Option<String>, String), u64>,
    beyond: u64,
}

impl RefusedCalls {
    /// Counts a refused call; gives the entry if it is one to be recorded now.
    pub(crate) fn note(
        &mut self,
        run: &Run,
        profile: &Profile,
        call: &Notification,
        program: Option<String>,
    ) -> Option<Entry> {
        let resource = describe(call);
        let key = (program.clone(), resource.clone());
        if !self.seen.contains_key(&key) && self.seen.len() == MOST_DISTINCT {
            self.beyond += 1;
            return self
                .beyond
                .is_power_of_two()
                .then(|| entry(run, "further system calls", None, None, self.beyond));
        }
        let count = self.seen.entry(key).or_insert(0);
        *count += 1;
        if !count.is_power_of_two() {
            return None;
        }
        let reason = Architecture::from_audit_value(call.architecture)
            .and_then(|architecture| profile.reason(architecture, call.syscall));
        let mut entry = entry(run, &resource, program, reason, *count);
        entry.pid = Some(call.pid).filter(|pid| *pid != 0);
        Some(entry)
    }

    /// The counts that have not been recorded yet, for the end.
    pub(crate) fn totals(&self, run: &Run) -> Vec<Entry> {
        self.seen
            .iter()
            .filter(|(_, count)| !count.is_power_of_two())
            .map(|((program, resource), count)| entry(run, resource, program.clone(), None, *count))
            .collect()
    }
}

fn entry(
    run: &Run,
    resource: &str,
    program: Option<String>,
    reason: Option<&str>,
    count: u64,
) -> Entry {
    Entry {
        program,
        resource: Some(resource.to_owned()),
        policy_decision: Some(Decision::Deny),
        rule: Some("system call profile agent".to_owned()),
        enforced_by: Some("seccomp".to_owned()),
        reason: reason.map(str::to_owned),
        details: Some(map([
            ("count", json!(count)),
            (
                "edit",
                json!("no edit allows it: the profile is the same for every agent"),
            ),
        ])),
        ..run.entry("syscall")
    }
}

/// A refused call with the arguments that decided, as far as they are numbers.
fn describe(call: &Notification) -> String {
    let Some(name) = call.name() else {
        return format!("system call {}", call.syscall);
    };
    let [first, second, third, ..] = call.arguments;
    match name {
        "socket" | "socketpair" => {
            format!("{name}({}, {}, {})", low(first), low(second), low(third))
        }
        "ioctl" | "fcntl" => format!("{name}(…, {:#x})", low(second)),
        "clone" | "unshare" | "prctl" | "personality" => format!("{name}({:#x})", low(first)),
        "mknod" => format!("{name}(…, {:#o})", low(second)),
        "mknodat" => format!("{name}(…, {:#o})", low(third)),
        "memfd_create" => format!("{name}(…, {:#x})", low(second)),
        _ => name.to_owned(),
    }
}

/// The 32 bits that the kernel reads of such an argument.
fn low(argument: u64) -> u64 {
    argument & 0xffff_ffff
}

fn command_line(command: &[String]) -> String {
    command.join(" ")
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
