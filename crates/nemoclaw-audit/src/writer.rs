//! A thread that owns a log, behind a bounded queue that loses nothing.
//!
//! ```text
//! Sender --send--> [queue] --> batch --> Log::append --> acknowledged
//!                                  full disk: Trouble::ReserveInUse, still written
//!                                  error:     Trouble::Failed, every later send gets it
//! Writer::close: no more sends; the queue is drained; the closing entries are written; the thread ends
//! ```

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::entry::Entry;
use crate::head::Head;
use crate::log::{Appended, Log, LogError};

/// The most entries that are written in one batch.
const MAX_BATCH: usize = 256;

/// Owns the writing thread. Dropping it closes the log without closing entries.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
    thread: Option<JoinHandle<Summary>>,
}

/// Puts entries into the queue. Clones share one queue.
#[derive(Clone)]
pub struct Sender {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What the supervisor must know at once. It is told on the writing thread.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The disk is full. Everything is still written, for a while: stop the agent and close. Told once.
    ReserveInUse,
    /// An entry could not be written, and none will be but closing entries: kill the agent and close. Told once.
    Failed(Arc<LogError>),
}

/// Why an entry was not taken, or not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The log failed.
    #[error("the audit log takes no more entries")]
    Failed(#[source] Arc<LogError>),
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// What became of a log that was closed.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How many entries were written by this writer.
    pub written: u64,
    /// How many entries were taken but could not be written. Where the closing entries could be, an `audit_gap`
    /// entry before them tells this number.
    pub unwritten: u64,
    /// Whether the disk was full at any time.
    pub reserve_used: bool,
    /// The last entry of the log.
    pub head: Head,
    /// The first error.
    pub error: Option<Arc<LogError>>,
}

type Acknowledge = Box<dyn FnOnce(Result<(), SendError>) + Send>;

enum Message {
    Entry(Box<Entry>, Option<Acknowledge>),
    Close(Vec<Entry>),
}

#[derive(Debug, Default)]
struct Shared {
    failure: OnceLock<Arc<LogError>>,
    /// Whether the log is closed. Held for reading while a message goes into the queue, so that when it is held for
    /// writing, everything that was taken is in the queue.
    closed: RwLock<bool>,
}

impl Writer {
    /// Starts the thread. The queue holds `queue_length` entries; a sender that finds it full waits.
    ///
    /// `on_trouble` is called on the writing thread, at most once for each kind of trouble; it should only pass the
    /// word on (a `tokio::sync::Notify` or channel serves).
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn spawn(
        log: Log,
        queue_length: usize,
        on_trouble: impl FnMut(Trouble) + Send + 'static,
    ) -> io::Result<(Sender, Self)> {
        let (queue, messages) = sync_channel(queue_length);
        let shared = Arc::new(Shared::default());
        let work = Work {
            summary: Summary {
                written: 0,
                unwritten: 0,
                reserve_used: false,
                head: log.head().clone(),
                error: None,
            },
            log,
            shared: Arc::clone(&shared),
            on_trouble: Box::new(on_trouble),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || work.run(&messages))?;
        let sender = Sender { queue, shared };
        let writer = Self {
            sender: sender.clone(),
            thread: Some(thread),
        };
        Ok((sender, writer))
    }

    /// Refuses further entries, writes all that were taken, then the closing entries, and ends the thread.
    ///
    /// The closing entries may use the last of the reserve, and are tried even where an earlier entry failed.
    ///
    /// # Errors
    ///
    /// The first error, if there was any: the summary then tells what was not written.
    pub fn close(mut self, closing: Vec<Entry>) -> Result<Summary, CloseError> {
        let summary = self.finish(closing).ok_or(CloseError { summary: None })?;
        if summary.error.is_some() {
            return Err(CloseError {
                summary: Some(Box::new(summary)),
            });
        }
        Ok(summary)
    }

    fn finish(&mut self, closing: Vec<Entry>) -> Option<Summary> {
        let thread = self.thread.take()?;
        // Senders that wait for space hold the lock for reading; the thread goes on making space for them.
        let mut closed = self
            .sender
            .shared
            .closed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *closed = true;
        drop(closed);
        // Only a thread that panicked has let go of the queue; joining tells that.
        let _ = self.sender.queue.send(Message::Close(closing));
        thread.join().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish(Vec::new());
    }
}

/// The log was closed, and not everything was written.
#[derive(Debug)]
pub struct CloseError {
    /// What became of the log; nothing where the writing thread panicked.
    pub summary: Option<Box<Summary>>,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.summary {
            Some(summary) => write!(
                f,
                "the audit log is incomplete: {} entries were not written",
                summary.unwritten
            ),
            None => f.write_str("the thread that writes the audit log ended early"),
        }
    }
}

impl std::error::Error for CloseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let error = self.summary.as_ref()?.error.as_deref()?;
        Some(error)
    }
}

impl Sender {
    /// Puts an entry into the queue; waits while the queue is full. It is written soon, and before `close` returns.
    ///
    /// # Errors
    ///
    /// The log failed or is closed; the entry was not taken.
    pub fn send(&self, entry: Entry) -> Result<(), SendError> {
        self.put(Message::Entry(Box::new(entry), None))
    }

    /// As [`Sender::send`], and waits until the entry is durable.
    ///
    /// # Errors
    ///
    /// The entry was not written.
    pub fn send_and_wait(&self, entry: Entry) -> Result<(), SendError> {
        let (done, outcome) = sync_channel(1);
        self.send_and_then(entry, move |result| {
            // The receiver waits below.
            let _ = done.send(result);
        })?;
        outcome.recv().unwrap_or(Err(SendError::Closed))
    }

    /// As [`Sender::send`]; calls `then` on the writing thread when the entry is durable or has failed.
    ///
    /// # Errors
    ///
    /// The log failed or is closed; the entry was not taken and `then` is not called.
    pub fn send_and_then(
        &self,
        entry: Entry,
        then: impl FnOnce(Result<(), SendError>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.put(Message::Entry(Box::new(entry), Some(Box::new(then))))
    }

    /// The error that ended the log, if any.
    pub fn failure(&self) -> Option<Arc<LogError>> {
        self.shared.failure.get().cloned()
    }

    fn put(&self, message: Message) -> Result<(), SendError> {
        if let Some(error) = self.shared.failure.get() {
            return Err(SendError::Failed(Arc::clone(error)));
        }
        let closed = self
            .shared
            .closed
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(SendError::Closed);
        }
        self.queue.send(message).map_err(|_| SendError::Closed)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// The thread's side.
struct Work {
    log: Log,
    shared: Arc<Shared>,
    on_trouble: Box<dyn FnMut(Trouble) + Send>,
    summary: Summary,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) -> Summary {
        let mut closing = None;
        // Ends when the log is closed, or every sender is gone.
        while closing.is_none() {
            let Ok(first) = messages.recv() else { break };
            closing = self.take_batch(first, messages);
        }
        self.close(closing.unwrap_or_default());
        self.summary
    }

    /// Writes a message and what is queued behind it; returns the closing entries when they come.
    fn take_batch(&mut self, first: Message, messages: &Receiver<Message>) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        let mut closing = None;
        while let Some(message) = next {
            match message {
                Message::Entry(entry, acknowledge) => {
                    entries.push(*entry);
                    waiting.push(acknowledge);
                }
                Message::Close(last) => {
                    closing = Some(last);
                    break;
                }
            }
            if entries.len() == MAX_BATCH {
                break;
            }
            next = messages.try_recv().ok();
        }
        self.write(&entries, waiting);
        closing
    }

    /// Writes a batch and tells those who wait. On a full disk, a batch that the reserve does not hold as a whole is
    /// written entry by entry as far as it goes; after the first that does not go in, none does.
    fn write(&mut self, entries: &[Entry], waiting: Vec<Option<Acknowledge>>) {
        if self.shared.failure.get().is_none() {
            match self.log.append(entries) {
                Err(LogError::Full { .. }) if entries.len() > 1 => {}
                outcome => {
                    let result = self.record(entries.len(), outcome);
                    for acknowledge in waiting.into_iter().flatten() {
                        acknowledge(result.clone().map_err(SendError::Failed));
                    }
                    return;
                }
            }
        }
        for (entry, acknowledge) in entries.iter().zip(waiting) {
            let result = self.write_one(entry);
            if let Some(acknowledge) = acknowledge {
                acknowledge(result.map_err(SendError::Failed));
            }
        }
    }

    fn write_one(&mut self, entry: &Entry) -> Result<(), Arc<LogError>> {
        if let Some(error) = self.shared.failure.get() {
            self.summary.unwritten += 1;
            return Err(Arc::clone(error));
        }
        let outcome = self.log.append(std::slice::from_ref(entry));
        self.record(1, outcome)
    }

    fn close(&mut self, closing: Vec<Entry>) {
        let mut last = Vec::new();
        if self.summary.unwritten > 0 {
            let count = self.summary.unwritten;
            last.push(Entry {
                reason: Some(format!("{count} entries could not be written")),
                ..Entry::new("audit_gap").with_detail("unwritten", count)
            });
        }
        last.extend(closing);
        if !last.is_empty() {
            let outcome = self.log.append_closing(&last);
            // The error, if any, is in the summary.
            let _ = self.record(last.len(), outcome);
        }
        if let Err(error) = self.log.sync() {
            // As above.
            let _ = self.record(0, Err(error));
        }
        self.summary.head = self.log.head().clone();
    }

    /// Counts what was written and spreads the word of trouble.
    fn record(
        &mut self,
        entries: usize,
        outcome: Result<Appended, LogError>,
    ) -> Result<(), Arc<LogError>> {
        match outcome {
            Ok(appended) => {
                self.summary.written += entries as u64;
                if appended == Appended::ReserveInUse && !self.summary.reserve_used {
                    self.summary.reserve_used = true;
                    (self.on_trouble)(Trouble::ReserveInUse);
                }
                Ok(())
            }
            Err(error) => {
                self.summary.unwritten += entries as u64;
                let error = Arc::new(error);
                if self.shared.failure.set(Arc::clone(&error)).is_ok() {
                    self.summary.error = Some(Arc::clone(&error));
                    (self.on_trouble)(Trouble::Failed(Arc::clone(&error)));
                }
                Err(error)
            }
        }
    }
}
