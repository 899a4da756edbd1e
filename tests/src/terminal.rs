//! A terminal to start an agent from, as a person's terminal program has one.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A pair of pseudo terminals (pty(7)).
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// Opens one of some rows and columns.
    ///
    /// # Panics
    /// When the host has none.
    #[must_use]
    pub fn open(rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo terminal");
        grantpt(&master).expect("a pseudo terminal's other end");
        unlockpt(&master).expect("a pseudo terminal's other end");
        let name = ptsname(&master, Vec::new()).expect("a pseudo terminal's name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = open(name.as_c_str(), flags, Mode::empty()).expect("a pseudo terminal's end");
        let terminal = Self { master, slave };
        terminal.resize(rows, columns);
        terminal
    }

    /// Gives it another size; the kernel tells the foreground process group.
    ///
    /// # Panics
    /// When it has none.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("a terminal has a size");
    }

    /// Its settings.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("a terminal has settings")
    }

    /// The end that programs have.
    ///
    /// # Panics
    /// When descriptors have run out.
    #[must_use]
    pub fn device(&self) -> Stdio {
        self.slave.try_clone().expect("a descriptor").into()
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal takes no more.
    pub fn type_text(&self, text: &str) {
        let written = rustix::io::write(&self.master, text.as_bytes()).expect("a terminal takes");
        assert_eq!(written, text.len(), "a terminal takes a short text whole");
    }

    /// What was shown, up to and with `end`.
    ///
    /// # Panics
    /// When it does not come.
    #[must_use]
    pub fn read_until(&self, end: &str) -> String {
        let limit = Instant::now() + Duration::from_secs(15);
        let mut shown = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&shown).into_owned();
            if text.contains(end) {
                return text;
            }
            let left = limit.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "`{end}` was not shown, but:\n{text}");
            let left = Timespec::try_from(left).expect("a short time");
            let mut waiting = [PollFd::new(&self.master, PollFlags::IN)];
            if poll(&mut waiting, Some(&left)).is_ok_and(|ready| ready > 0) {
                let mut part = [0; 4096];
                let length = rustix::io::read(&self.master, &mut part).unwrap_or(0);
                shown.extend_from_slice(part.get(..length).unwrap_or_default());
            }
        }
    }
}
