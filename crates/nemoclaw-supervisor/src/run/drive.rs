//! The loop that drives one agent: everything that can happen is an [`Input`], taken one at a time.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nemoclaw_audit::{Entry, Refusals, SendError, Sender, Trouble};
use nemoclaw_egress::protocol::{Acknowledge, Refuse};
use nemoclaw_egress::{Control, ControlError, ControlSender, FromWorker, ToWorker};
use nemoclaw_sandbox::cgroup::{Cgroup, Usage};
use nemoclaw_sandbox::launch::{Ending, Running};
use nemoclaw_sandbox::seccomp::{Event, Filter, Listener, Notification, Profile};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel};

use super::patience::Patience;
use super::ready::Known;
use super::record::RefusedCalls;
use super::terminal::Terminal;

/// Signals that are passed on to the agent.
const PASSED: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];
/// Messages of the worker that may wait to be looked at.
const WORKER_QUEUE: usize = 64;
/// How long the worker has, after the agent's end, to tell of the requests that are still open.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// Refused calls that are answered before the loop looks at anything else.
const CALLS_AT_ONCE: usize = 64;

/// What other threads and tasks have to say.
#[derive(Debug)]
pub(super) enum Notice {
    /// This process got a signal.
    Signal(Signal),
    /// The person's terminal has another size.
    Resize,
    /// The entry of a model request is durable, or is not.
    Recorded(u64, Result<(), SendError>),
    /// The audit log cannot go on.
    Trouble(Trouble),
}

/// All that can happen.
enum Input {
    /// The command has ended.
    Ended,
    Notice(Notice),
    /// The worker spoke, or is gone.
    Worker(Option<Result<FromWorker, ControlError>>),
    /// Refused calls wait for their answer.
    Refusals,
    /// The agent's time is up.
    WallTime,
    /// Its time to end by itself is up.
    Deadline,
}

/// The command that runs.
pub(super) struct Agent {
    running: Running,
    /// A copy that the reactor can own.
    ended: AsyncFd<OwnedFd>,
    terminal: Option<Terminal>,
    refusals: Option<Refused>,
}

/// Where refused calls come from and what they are answered.
struct Refused {
    listener: AsyncFd<Listener>,
    filter: Filter,
    profile: Profile,
}

impl Agent {
    /// Must be called within the reactor.
    pub(super) fn new(
        mut running: Running,
        terminal: Option<Terminal>,
        filter: Option<Filter>,
    ) -> anyhow::Result<Self> {
        let ended = running.ended().try_clone_to_owned()?;
        let ended = watched(ended)?;
        let refusals = match (running.take_refusals(), filter) {
            (Some(listener), Some(filter)) => Some(Refused {
                listener: watched(Listener::new(listener)?)?,
                filter,
                profile: Profile::parse(Profile::AGENT)?,
            }),
            _ => None,
        };
        Ok(Self {
            running,
            ended,
            terminal,
            refusals,
        })
    }
}

/// Has the reactor watch a descriptor for being readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that change their descriptor; ours own one for good"
)]
fn watched<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

/// The worker as the loop sees it.
struct Service {
    running: Running,
    sender: ControlSender,
    messages: Receiver<Result<FromWorker, ControlError>>,
    /// Requests that have started and not finished.
    open: BTreeSet<u64>,
}

/// What is left when the agent has ended.
pub(super) struct Ended {
    /// Entries that are to be the log's last, before the exit.
    pub(super) last_entries: Vec<Entry>,
    pub(super) usage: Usage,
    pub(super) refusals: Refusals,
    /// Why the supervisor ended the agent, if it did.
    pub(super) reason: Option<String>,
}

/// Everything that one run holds.
pub(super) struct Session<'a> {
    known: &'a Known,
    audit: Sender,
    notify: UnboundedSender<Notice>,
    notices: UnboundedReceiver<Notice>,
    service: Option<Service>,
    patience: Patience,
    calls: RefusedCalls,
    refusals: Refusals,
    reason: Option<String>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        known: &'a Known,
        audit: Sender,
        notify: UnboundedSender<Notice>,
        notices: UnboundedReceiver<Notice>,
    ) -> Self {
        Self {
            known,
            audit,
            notify,
            notices,
            service: None,
            patience: Patience::default(),
            calls: RefusedCalls::default(),
            refusals: Refusals::default(),
            reason: None,
        }
    }

    /// From now on signals are notices. Before the launch, so that none is missed.
    pub(super) fn listen_to_signals(&self) -> io::Result<()> {
        for number in PASSED {
            let mut stream = signal(SignalKind::from_raw(number.as_raw()))?;
            let notify = self.notify.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && notify.send(Notice::Signal(number)).is_ok() {
                }
            });
        }
        let mut stream = signal(SignalKind::window_change())?;
        let notify = self.notify.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && notify.send(Notice::Resize).is_ok() {}
        });
        Ok(())
    }

    /// Puts an entry on record, or into the hands of the log's own trouble.
    pub(super) fn record(&mut self, entry: Entry) {
        self.refusals.note(&entry);
        // A log that failed says so by a notice, which ends the agent.
        let _ = self.audit.send(entry);
    }

    /// Puts an entry on record and waits until it is durable.
    pub(super) fn record_durably(&mut self, entry: Entry) -> Result<(), SendError> {
        self.audit.send_and_wait(entry)
    }

    /// Takes over the worker that serves the agent.
    pub(super) fn serve(&mut self, running: Running, control: Control) {
        let (sender, mut receiver) = control.split();
        let (forward, messages) = channel(WORKER_QUEUE);
        tokio::spawn(async move {
            loop {
                let message = match receiver.recv().await {
                    Ok(Some(message)) => Ok(message),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let last = message.is_err();
                if forward.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        self.service = Some(Service {
            running,
            sender,
            messages,
            open: BTreeSet::new(),
        });
    }

    /// Drives the agent to its end.
    pub(super) async fn drive(mut self, mut agent: Agent) -> anyhow::Result<(Ending, Ended)> {
        let wall_time = self.known.policy.policy().resources.wall_time;
        // A time beyond what the clock can count is no limit.
        let mut wall_time = wall_time.and_then(|time| Instant::now().checked_add(time));
        loop {
            match self.next(&agent, wall_time).await? {
                Input::Ended => break,
                Input::Notice(notice) => self.noticed(notice, &mut agent).await,
                Input::Worker(Some(Ok(message))) => self.heard(message).await,
                Input::Worker(Some(Err(error))) => {
                    self.lost_worker(&mut agent, &error.to_string());
                }
                Input::Worker(None) => self.lost_worker(&mut agent, "it ended"),
                Input::Refusals => self.answer_calls(&mut agent)?,
                Input::WallTime => {
                    wall_time = None;
                    self.end(&mut agent, "its `wall_time` is over");
                }
                Input::Deadline => {
                    self.reason
                        .get_or_insert_with(|| "it did not end when it was asked to".to_owned());
                    agent.running.kill();
                    break;
                }
            }
        }
        self.conclude(agent).await
    }

    async fn next(&mut self, agent: &Agent, wall_time: Option<Instant>) -> anyhow::Result<Input> {
        let deadline = self.patience.deadline();
        let worker = async {
            match &mut self.service {
                Some(service) => service.messages.recv().await,
                None => std::future::pending().await,
            }
        };
        let refusals = async {
            match &agent.refusals {
                // The loop's next turn asks again until the kernel has nothing more.
                Some(refused) => refused.listener.readable().await.map(|_ready| ()),
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            // In this order: what ends the agent comes before what keeps it going.
            biased;
            () = until(deadline) => Input::Deadline,
            ready = agent.ended.readable() => {
                let _guard = ready.context("could not wait for the agent")?;
                Input::Ended
            }
            Some(notice) = self.notices.recv() => Input::Notice(notice),
            () = until(wall_time) => Input::WallTime,
            message = worker => Input::Worker(message),
            ready = refusals => {
                ready.context("could not wait for refused calls")?;
                Input::Refusals
            }
        })
    }

    async fn noticed(&mut self, notice: Notice, agent: &mut Agent) {
        match notice {
            Notice::Signal(signal) => {
                if matches!(signal, Signal::INT | Signal::TERM | Signal::HUP) {
                    self.patience.asked(Instant::now());
                }
                // It may have ended meanwhile, which the loop sees next.
                let _ = agent.running.signal(signal.as_raw());
            }
            Notice::Resize => {
                if let Some(terminal) = &agent.terminal {
                    terminal.resize();
                }
            }
            Notice::Recorded(request, outcome) => {
                let message = match outcome {
                    Ok(()) => ToWorker::Acknowledge(Acknowledge { id: request }),
                    Err(_) => ToWorker::Refuse(Refuse {
                        id: request,
                        reason: "the audit log takes no more entries".to_owned(),
                    }),
                };
                self.tell_worker(&message).await;
            }
            Notice::Trouble(trouble) => {
                let reason = match trouble {
                    Trouble::ReserveInUse => "the disk of the audit log is full".to_owned(),
                    Trouble::Failed(error) => {
                        format!("the audit log failed: {:#}", anyhow::Error::new(error))
                    }
                };
                self.reason.get_or_insert(reason);
                // Nothing goes on that cannot be put on record.
                agent.running.kill();
            }
        }
    }

    async fn heard(&mut self, message: FromWorker) {
        let run = &self.known.run;
        match message {
            FromWorker::Started(started) => {
                let id = started.id;
                if let Some(service) = &mut self.service {
                    service.open.insert(id);
                }
                let entry = run.model_request(&started);
                let notify = self.notify.clone();
                let sent = self.audit.send_and_then(entry, move |outcome| {
                    // The loop has ended only when the agent has.
                    let _ = notify.send(Notice::Recorded(id, outcome));
                });
                if let Err(error) = sent {
                    let _ = self.notify.send(Notice::Recorded(id, Err(error)));
                }
            }
            FromWorker::Finished(finished) => {
                if let Some(service) = &mut self.service {
                    service.open.remove(&finished.id);
                }
                let entry = run.model_response(&finished);
                self.record(entry);
            }
            FromWorker::Refused(refused) => {
                let entry = run.turned_away(&refused, &self.known.policy);
                self.record(entry);
            }
            FromWorker::Ready | FromWorker::Failed(_) => {
                let entry = run.trouble("egress", "the egress worker spoke out of turn");
                self.record(entry);
            }
        }
    }

    async fn tell_worker(&mut self, message: &ToWorker) {
        if let Some(service) = &mut self.service {
            // A worker that is gone is seen by its silence.
            let _ = service.sender.send(message).await;
        }
    }

    /// Without its worker the agent has no model, and nobody knows why it is gone: the run ends.
    fn lost_worker(&mut self, agent: &mut Agent, why: &str) {
        let reason = format!("its egress worker is gone: {why}");
        let entry = self.known.run.trouble("egress", &reason);
        self.record(entry);
        self.close_service();
        self.end(agent, &reason);
    }

    /// Takes leave of the worker; what it left open is recorded as such.
    fn close_service(&mut self) {
        let Some(service) = self.service.take() else {
            return;
        };
        for request in &service.open {
            let entry = self.known.run.model_request_lost(*request);
            self.record(entry);
        }
        // Dropping it closes the channel, which ends the worker, and kills what does not end.
        drop(service.sender);
        drop(service.running);
    }

    /// Takes leave of the worker when the agent has ended: it may have more to tell than was heard.
    async fn dismiss_worker(&mut self) {
        let Some(service) = self.service.take() else {
            return;
        };
        let Service {
            running,
            sender,
            mut messages,
            mut open,
        } = service;
        // Closing our direction has the worker send what is still on its way, and end.
        drop(sender);
        let until_then = tokio::time::Instant::now() + LAST_REQUESTS;
        while let Ok(Some(Ok(message))) = tokio::time::timeout_at(until_then, messages.recv()).await
        {
            if let FromWorker::Finished(finished) = &message {
                open.remove(&finished.id);
            }
            self.heard(message).await;
        }
        for request in &open {
            let entry = self.known.run.model_request_lost(*request);
            self.record(entry);
        }
        drop(running);
    }

    fn end(&mut self, agent: &mut Agent, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
        self.patience.end(Instant::now());
        // It may have ended meanwhile, which the loop sees next.
        let _ = agent.running.signal(Signal::TERM.as_raw());
    }

    /// Records and answers the refused calls that wait now.
    fn answer_calls(&mut self, agent: &mut Agent) -> anyhow::Result<()> {
        let Some(refused) = &mut agent.refusals else {
            return Ok(());
        };
        for _ in 0..CALLS_AT_ONCE {
            match refused
                .listener
                .get_mut()
                .receive()
                .context("could not receive a refused call")?
            {
                Event::Call(call) => {
                    let listener = refused.listener.get_ref();
                    let program = program_of(&call, listener);
                    let entry = self
                        .calls
                        .note(&self.known.run, &refused.profile, &call, program);
                    let answer = refused.filter.answer(call.syscall);
                    listener
                        .respond(call.id, answer)
                        .context("could not answer a refused call")?;
                    if let Some(entry) = entry {
                        self.refusals.note(&entry);
                        // As in `record`.
                        let _ = self.audit.send(entry);
                    }
                }
                Event::Idle => {
                    // A call that came in between makes it readable again.
                    let mut ready = std::task::Context::from_waker(std::task::Waker::noop());
                    if let std::task::Poll::Ready(Ok(mut guard)) =
                        refused.listener.poll_read_ready(&mut ready)
                    {
                        guard.clear_ready();
                    }
                    return Ok(());
                }
                Event::Ended => {
                    agent.refusals = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn conclude(mut self, mut agent: Agent) -> anyhow::Result<(Ending, Ended)> {
        let usage = agent
            .running
            .cgroup()
            .map(Cgroup::usage)
            .unwrap_or_default();
        let ending = agent
            .running
            .wait()
            .context("could not wait for the agent")?;
        if let Some(terminal) = agent.terminal.take() {
            terminal.finish();
        }
        // What is left of the agent goes before the last entry says that it has ended.
        drop(agent);
        let until_then = tokio::time::Instant::now() + LAST_REQUESTS;
        while self
            .service
            .as_ref()
            .is_some_and(|service| !service.open.is_empty())
        {
            let heard = match &mut self.service {
                Some(service) => tokio::time::timeout_at(until_then, service.messages.recv()).await,
                None => break,
            };
            match heard {
                Ok(Some(Ok(message))) => self.heard(message).await,
                Ok(None | Some(Err(_))) | Err(_) => break,
            }
        }
        self.dismiss_worker().await;
        let last_entries = self.calls.totals(&self.known.run);
        for entry in &last_entries {
            self.refusals.note(entry);
        }
        let ended = Ended {
            last_entries,
            usage,
            refusals: self.refusals,
            reason: self.reason,
        };
        Ok((ending, ended))
    }
}

/// The program of the calling thread, if the call still waits after it was read: only then was it the caller's.
fn program_of(call: &Notification, listener: &Listener) -> Option<String> {
    let program = std::fs::read_link(format!("/proc/{}/exe", call.pid)).ok()?;
    let program = program.to_string_lossy().into_owned();
    listener
        .is_waiting(call.id)
        .is_ok_and(|waits| waits)
        .then_some(program)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
