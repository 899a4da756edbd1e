//! The worker's side of the record: every request is entered before it leaves, waits for the
//! supervisor's answer, and is closed exactly once, also when everybody has gone away.
//!
//! ```text
//! open --Started--> waiting --Acknowledge--> Entry --close or drop--> Finished
//!                      |-----Refuse---------> Finished{refused}
//!                      `-----time-----------> Finished{unacknowledged}
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::usage::Usage;
use crate::protocol::{Finished, FromWorker, Outcome, Refused, Started, Via};

/// The longest reason, path and name in a message, in characters.
const MOST_REASON: usize = 512;
const MOST_PATH: usize = 1024;
const MOST_NAME: usize = 255;

/// Text of the agent's for a message to a person or a record: no control characters, no more than
/// `most` characters.
pub(crate) fn shown(text: &str, most: usize) -> String {
    let mut out: String = text
        .chars()
        .take(most)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// What the supervisor answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Acknowledged,
    Refused(String),
}

/// Why a request may not leave.
#[derive(Debug)]
pub(crate) enum Denied {
    /// The supervisor said so, and why.
    Refused(String),
    /// The supervisor said nothing in time, or is gone.
    Unacknowledged,
}

/// What is entered for a request.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) via: Via,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) peer_port: u16,
    pub(crate) model: Option<String>,
    pub(crate) arrived: Instant,
}

/// All requests that wait for an answer.
pub(crate) struct Ledger {
    sender: mpsc::Sender<FromWorker>,
    patience: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Ledger {
    /// `sender`'s capacity must be more than twice the requests that can be open at once, because
    /// each holds up to two places in it.
    pub(crate) fn new(sender: mpsc::Sender<FromWorker>, patience: Duration) -> Arc<Ledger> {
        Arc::new(Ledger {
            sender,
            patience,
            waiting: Mutex::default(),
        })
    }

    /// Enters a request and waits for the answer.
    pub(crate) async fn open(self: &Arc<Ledger>, opening: Opening) -> Result<Entry, Denied> {
        let deadline = Instant::now() + self.patience;
        // Both places are taken before anything is sent, so that whoever has a Started also has
        // the place for its Finished.
        let places = async {
            let started = self.sender.clone().reserve_owned().await.ok()?;
            let finished = self.sender.clone().reserve_owned().await.ok()?;
            Some((started, finished))
        };
        let Ok(Some((started, finished))) = tokio::time::timeout_at(deadline, places).await else {
            return Err(Denied::Unacknowledged);
        };
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            waiting.last += 1;
            let id = waiting.last;
            waiting.answers.insert(id, answer);
            id
        };
        let model = opening.model.map(|model| shown(&model, MOST_NAME));
        started.send(FromWorker::Started(Started {
            id,
            via: opening.via,
            method: shown(&opening.method, MOST_NAME),
            host: shown(&opening.host, MOST_NAME),
            path: shown(&opening.path, MOST_PATH),
            peer_port: opening.peer_port,
            model: model.clone(),
        }));
        let mut entry = Entry {
            ledger: Arc::clone(self),
            place: Some(finished),
            arrived: opening.arrived,
            record: Finished {
                id,
                outcome: Outcome::ClientGone,
                reason: Some("the agent went away".to_owned()),
                status: None,
                request_bytes: 0,
                response_bytes: 0,
                milliseconds: 0,
                model,
                input_tokens: None,
                output_tokens: None,
            },
        };
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(Answer::Acknowledged)) => Ok(entry),
            Ok(Ok(Answer::Refused(reason))) => {
                entry.close(Outcome::Refused, Some(&reason), Some(403));
                Err(Denied::Refused(reason))
            }
            Ok(Err(_)) | Err(_) => {
                entry.close(
                    Outcome::Unacknowledged,
                    Some("the request was not acknowledged in time"),
                    Some(503),
                );
                Err(Denied::Unacknowledged)
            }
        }
    }

    /// Passes the supervisor's answer on. `false` for a number that was never given out; an answer
    /// that comes too late is passed over.
    pub(crate) fn answer(&self, id: u64, answer: Answer) -> bool {
        let mut waiting = self.waiting();
        if id == 0 || id > waiting.last {
            return false;
        }
        if let Some(waiter) = waiting.answers.remove(&id) {
            // The request may have been given up at this moment.
            let _ = waiter.send(answer);
        }
        true
    }

    /// Puts a refusal on record; waits while the supervisor is slow.
    pub(crate) async fn refused(&self, mut refused: Refused) {
        refused.method = shown(&refused.method, MOST_NAME);
        refused.destination = shown(&refused.destination, MOST_NAME);
        refused.path = shown(&refused.path, MOST_PATH);
        refused.reason = shown(&refused.reason, MOST_REASON);
        // It fails only when the control channel is closed, and then the worker is ending.
        let _ = self.sender.send(FromWorker::Refused(refused)).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on record. Dropping it before [`Entry::close`] means that the agent went away.
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    place: Option<mpsc::OwnedPermit<FromWorker>>,
    arrived: Instant,
    record: Finished,
}

impl Entry {
    /// What the agent was, or is about to be, given.
    pub(crate) fn set_status(&mut self, status: u16) {
        self.record.status = Some(status);
    }

    pub(crate) fn set_request_bytes(&mut self, bytes: u64) {
        self.record.request_bytes = bytes;
    }

    pub(crate) fn add_response_bytes(&mut self, bytes: usize) {
        self.record.response_bytes = self
            .record
            .response_bytes
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn set_usage(&mut self, usage: Usage) {
        if let Some(model) = usage.model {
            self.record.model = Some(shown(&model, MOST_NAME));
        }
        self.record.input_tokens = usage.input_tokens;
        self.record.output_tokens = usage.output_tokens;
    }

    /// Closes the entry; further calls do nothing.
    pub(crate) fn close(&mut self, outcome: Outcome, reason: Option<&str>, status: Option<u16>) {
        let Some(place) = self.place.take() else {
            return;
        };
        self.record.outcome = outcome;
        self.record.reason = reason.map(|reason| shown(reason, MOST_REASON));
        self.record.status = status.or(self.record.status);
        self.record.milliseconds =
            u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ledger.waiting().answers.remove(&self.record.id);
        place.send(FromWorker::Finished(self.record.clone()));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close(Outcome::ClientGone, Some("the agent went away"), None);
    }
}

/// Waits for a place among the requests that may be open at once.
pub(crate) async fn wait_turn(
    turns: &Arc<tokio::sync::Semaphore>,
    patience: Duration,
) -> Option<tokio::sync::OwnedSemaphorePermit> {
    timeout(patience, Arc::clone(turns).acquire_owned())
        .await
        .ok()?
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening {
            via: Via::Origin,
            method: "GET".to_owned(),
            host: "inference.local".to_owned(),
            path: "/v1/models".to_owned(),
            peer_port: 1,
            model: None,
            arrived: Instant::now(),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn a_request_given_up_while_it_waits_is_closed_once() {
        runtime().block_on(async {
            let (sender, mut receiver) = mpsc::channel(8);
            let ledger = Ledger::new(sender, Duration::from_secs(60));
            let wait = timeout(Duration::from_millis(20), ledger.open(opening())).await;
            assert!(wait.is_err());
            assert!(matches!(
                receiver.recv().await,
                Some(FromWorker::Started(_))
            ));
            let Some(FromWorker::Finished(finished)) = receiver.recv().await else {
                panic!("no end was recorded");
            };
            assert_eq!(finished.outcome, Outcome::ClientGone);
            assert!(receiver.try_recv().is_err());
            // The answer that comes too late is passed over; one to nothing is not.
            assert!(ledger.answer(1, Answer::Acknowledged));
            assert!(!ledger.answer(2, Answer::Acknowledged));
            assert!(!ledger.answer(0, Answer::Acknowledged));
        });
    }

    #[test]
    fn when_nobody_takes_the_record_nothing_is_opened() {
        runtime().block_on(async {
            let (sender, _receiver) = mpsc::channel(1);
            let ledger = Ledger::new(sender, Duration::from_millis(20));
            assert!(matches!(
                ledger.open(opening()).await,
                Err(Denied::Unacknowledged)
            ));
        });
    }

    #[test]
    fn text_of_the_agents_is_shortened_and_cannot_control_a_terminal() {
        assert_eq!(
            shown("a\u{1b}[2Jb\r\n", 64),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
        assert_eq!(shown("ééé", 2), "éé…");
        assert_eq!(shown("éé", 2), "éé");
    }
}
