//! The person's terminal and the agent's: bytes are carried between the two, nothing else.
//!
//! The agent has a terminal of its own (pty(7)), whose other end is here, so it reaches neither the input queue nor the
//! settings of the person's. Two threads copy: ordinary blocking reads, because making the person's terminal
//! non-blocking would make it so for every program that shares it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::termios::{
    OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Rows and columns where the terminal does not say.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Which of standard input, output and error are a terminal.
pub(crate) fn standard_terminals() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

/// Rows and columns of the person's terminal.
pub(crate) fn size() -> (u16, u16) {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .find_map(|stream| tcgetwinsize(stream).ok())
        .map(|size| (size.ws_row, size.ws_col))
        .filter(|(rows, columns)| *rows > 0 && *columns > 0)
        .unwrap_or(DEFAULT_SIZE)
}

/// The link between the two terminals. Dropping it gives the person's its settings back.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    settings: Option<Termios>,
    output: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts copying. `terminals` says which of the standard three are terminals.
    ///
    /// # Errors
    /// When the person's terminal cannot be set to raw, or descriptors or threads have run out.
    pub(super) fn link(master: OwnedFd, terminals: [bool; 3]) -> io::Result<Self> {
        let [input, output, _] = terminals;
        let from_agent = File::from(master.try_clone()?);
        let to_agent = File::from(master.try_clone()?);
        let mut terminal = Self {
            master,
            settings: None,
            output: None,
        };
        if input {
            let stdin = io::stdin();
            let settings = tcgetattr(&stdin)?;
            let mut raw = settings.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
            terminal.settings = Some(settings);
            let stdin = File::from(stdin.as_fd().try_clone_to_owned()?);
            // It ends with this process: a read of the person's terminal cannot be called off.
            std::thread::Builder::new()
                .name("terminal input".to_owned())
                .spawn(move || copy(stdin, to_agent))?;
        }
        let person = if output {
            File::from(io::stdout().as_fd().try_clone_to_owned()?)
        } else {
            File::from(io::stderr().as_fd().try_clone_to_owned()?)
        };
        if input || output || terminals[2] {
            let thread = std::thread::Builder::new()
                .name("terminal output".to_owned())
                .spawn(move || copy(from_agent, person))?;
            terminal.output = Some(thread);
        }
        Ok(terminal)
    }

    /// Gives the agent's terminal the size of the person's; the kernel tells the agent with SIGWINCH.
    pub(super) fn resize(&self) {
        let (rows, columns) = size();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // Fails only when the agent's terminal is gone.
        let _ = tcsetwinsize(&self.master, size);
    }

    /// Waits until all that the agent wrote is shown; the agent must have ended.
    pub(super) fn finish(mut self) {
        if let Some(output) = self.output.take() {
            // It holds no result, and a panic in it was told already.
            let _ = output.join();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            // Fails only when the person's terminal is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, settings);
        }
    }
}

/// Copies until one side ends. Reading a pty whose other side is closed fails with EIO, which is such an end.
fn copy(mut from: File, mut to: File) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if to
            .write_all(buffer.get(..read).unwrap_or_default())
            .is_err()
        {
            return;
        }
    }
}
