//! The parent's end of a child: its listener and its output.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nemoclaw_sandbox::seccomp::{Event, Filter, Listener, Notification, RefusalAction};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{Outcome, filter, profile, same, text};

/// How long a child may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) listener: Listener,
    pub(crate) socket: UnixStream,
    pub(crate) filter: Filter,
    pub(crate) deadline: Instant,
}

pub(crate) struct Report {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) notifications: Vec<Notification>,
}

impl Report {
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.notifications
            .iter()
            .map(|call| call.name().unwrap_or("?"))
            .collect()
    }
}

pub(crate) fn command(case: &str) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new(program);
    command.args(["child", case]).stdout(Stdio::piped());
    if std::env::args().nth(1).as_deref() == Some("try") {
        command
            .args(std::env::args_os().skip(3))
            .stdout(Stdio::inherit());
    } else if case == "egress" {
        command.args(["getent", "ahosts", "localhost"]);
    }
    command
}

/// Runs the case, answering each reported call as its filter says.
pub(crate) fn run(case: &str) -> Result<Report, String> {
    let mut running = Running::start(case)?;
    running.go()?;
    let mut notifications = Vec::new();
    while let Some(call) = running.next()? {
        let answer = running.filter.answer(call.syscall);
        same(
            "answer taken",
            &text(running.listener.respond(call.id, answer))?,
            &true,
        )?;
        same(
            "answered twice",
            &text(running.listener.respond(call.id, answer))?,
            &false,
        )?;
        notifications.push(call);
    }
    let (status, output) = finish(&mut running.child, running.deadline)?;
    Ok(Report {
        pid: running.child.id(),
        status,
        output,
        notifications,
    })
}

impl Running {
    pub(crate) fn start(case: &str) -> Result<Self, String> {
        let (socket, theirs) = text(UnixStream::pair())?;
        text(socket.set_read_timeout(Some(PATIENCE)))?;
        let child = text(
            command(case)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn(),
        )?;
        let mut child = KillOnDrop(Some(child));
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        text(recvmsg(
            &socket,
            &mut into,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ))?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let listener = text(Listener::new(
            descriptor.ok_or("the child sent no listener")?,
        ))?;
        let filter = filter(profile(case), RefusalAction::Notify)?;
        let child = child.0.take().ok_or("no child")?;
        Ok(Self {
            child,
            listener,
            socket,
            filter,
            deadline: Instant::now() + PATIENCE,
        })
    }

    pub(crate) fn go(&mut self) -> Outcome {
        text(self.socket.write_all(b"g"))
    }

    /// The next reported call, or `None` when the filter's last process has gone.
    pub(crate) fn next(&mut self) -> Result<Option<Notification>, String> {
        while Instant::now() < self.deadline {
            match text(self.listener.receive())? {
                Event::Call(call) => return Ok(Some(call)),
                Event::Ended => return Ok(None),
                Event::Idle => {
                    let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
                    text(poll(
                        &mut waiting,
                        Some(&Timespec {
                            tv_sec: 1,
                            tv_nsec: 0,
                        }),
                    ))?;
                }
            }
        }
        let _ = self.child.kill();
        Err("nothing more came in time".to_owned())
    }
}

struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn finish(child: &mut Child, deadline: Instant) -> Result<(ExitStatus, String), String> {
    let status = loop {
        if let Some(status) = text(child.try_wait())? {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err("the child did not end in time".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut output = String::new();
    if let Some(stdout) = &mut child.stdout {
        text(stdout.read_to_string(&mut output))?;
    }
    Ok((status, output))
}
