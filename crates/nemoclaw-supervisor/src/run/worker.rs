//! The worker that serves the model socket: started in its own jail, spoken to over its standard input.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;
use nemoclaw_egress::{Configure, Control, FromWorker, Limits, ListenerKind, Upstream};
use nemoclaw_sandbox::cgroup::Layout;
use nemoclaw_sandbox::launch::{self, PinnedProgram, Running, StandardStreams};
use nemoclaw_sandbox::plan::LaunchPlan;
use tokio::net::UnixStream;

/// How long the worker may take to say that it serves.
const READY: Duration = Duration::from_secs(30);
/// The most of its last words that are repeated.
const LAST_WORDS: u64 = 4096;

/// The worker, started and not yet configured.
#[derive(Debug)]
pub(super) struct Worker {
    running: Running,
    socket: UnixStream,
    words: OwnedFd,
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// The step of its launch that failed.
    pub(super) fn start(
        plan: LaunchPlan,
        layout: &Layout,
        init: &PinnedProgram,
    ) -> anyhow::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (words, their_words) = rustix::pipe::pipe_with(
            rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
        )?;
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        let streams = StandardStreams {
            input: theirs.into(),
            output: null.into(),
            error: their_words,
        };
        let running = launch::prepare(plan, layout)?
            .start(init, &streams, &[])?
            .go()?;
        Ok(Self {
            running,
            socket: UnixStream::from_std(ours)?,
            words,
        })
    }

    /// Hands it the agent's listeners and the upstream, and waits until it serves.
    ///
    /// # Errors
    /// What the worker says it cannot do, or its last words.
    pub(super) async fn configure(
        self,
        agent: &str,
        upstream: Option<Upstream>,
        listeners: &[OwnedFd],
    ) -> anyhow::Result<(Running, Control)> {
        let Self {
            running,
            socket,
            words,
        } = self;
        let configure = Configure {
            agent_id: agent.to_owned(),
            // In the order of the plan's `Listen` steps.
            listeners: vec![ListenerKind::Model, ListenerKind::Proxy],
            upstream,
            limits: Limits::default(),
        };
        let listeners: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        let served = async {
            let mut control = Control::connect(socket, configure, &listeners).await?;
            match control.recv().await? {
                Some(FromWorker::Ready) => Ok(control),
                Some(FromWorker::Failed(failed)) => anyhow::bail!("{}", failed.reason),
                Some(_) => anyhow::bail!("it spoke before it was ready"),
                None => anyhow::bail!("it ended{}", last_words(words)),
            }
        };
        let control = tokio::time::timeout(READY, served)
            .await
            .context("it was not ready in time")
            .flatten()
            .context("the egress worker does not serve")?;
        Ok((running, control))
    }
}

/// What the worker wrote before it ended, on one line.
fn last_words(words: OwnedFd) -> String {
    let mut text = Vec::new();
    // What cannot be read is not told; the pipe does not block.
    let _: Result<usize, io::Error> = std::fs::File::from(words)
        .take(LAST_WORDS)
        .read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text: Vec<&str> = text.split_whitespace().collect();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {}", nemoclaw_audit::Shown(&text.join(" ")))
    }
}
