//! A worker as the supervisor starts it, an upstream that does what a test tells it, and an agent that
//! sends bytes. All on loopback, every wait bounded.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nemoclaw_egress::protocol::{Acknowledge, Refuse};
use nemoclaw_egress::{
    Configure, Control, ControlSender, Finished, FromWorker, Limits, ListenerKind, Refused, Secret,
    Started, ToWorker, Upstream, UpstreamUrl,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// The most that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The key that only the upstream may see.
pub(crate) const KEY: &str = "sk-real-0123456789abcdef";

/// Runs a test with a limit on its time.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { within(test).await });
}

/// Waits, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("the test waited too long")
}

/// How the supervisor of a test answers what is started.
#[derive(Clone, Copy)]
pub(crate) enum Supervisor {
    Acknowledges,
    Refuses(&'static str),
    Withholds,
}

/// A running worker, ended when dropped.
pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) model: SocketAddr,
    pub(crate) proxy: SocketAddr,
    messages: watch::Receiver<Vec<FromWorker>>,
    sender: Arc<tokio::sync::Mutex<Option<ControlSender>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Worker {
    /// Starts the program with a key and the default limits.
    pub(crate) async fn start(url: &str) -> Worker {
        Worker::configured(url, Supervisor::Acknowledges, Limits::default()).await
    }

    pub(crate) async fn configured(url: &str, supervisor: Supervisor, limits: Limits) -> Worker {
        Worker::launched(url, supervisor, limits, &[]).await
    }

    /// Starts the program with an environment.
    pub(crate) async fn launched(
        url: &str,
        supervisor: Supervisor,
        limits: Limits,
        environment: &[(&str, &str)],
    ) -> Worker {
        let model = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let configure = Configure {
            agent_id: "test".to_owned(),
            listeners: vec![ListenerKind::Model, ListenerKind::Proxy],
            upstream: (!url.is_empty()).then(|| Upstream {
                url: UpstreamUrl::try_from(url).unwrap(),
                key: Some(Secret::try_from(KEY.to_owned()).unwrap()),
            }),
            limits,
        };
        let addresses = (model.local_addr().unwrap(), proxy.local_addr().unwrap());
        let (child, stream) = spawn(environment);
        let control = Control::connect(stream, configure, &[model.as_fd(), proxy.as_fd()])
            .await
            .unwrap();
        drop((model, proxy));
        let (sender, mut receiver) = control.split();
        assert_eq!(
            within(receiver.recv()).await.unwrap(),
            Some(FromWorker::Ready)
        );
        let sender = Arc::new(tokio::sync::Mutex::new(Some(sender)));
        let (publish, messages) = watch::channel(Vec::new());
        let answers = Arc::clone(&sender);
        let reader = tokio::spawn(async move {
            while let Ok(Some(message)) = receiver.recv().await {
                let answer = match (&message, supervisor) {
                    (FromWorker::Started(started), Supervisor::Acknowledges) => {
                        Some(ToWorker::Acknowledge(Acknowledge { id: started.id }))
                    }
                    (FromWorker::Started(started), Supervisor::Refuses(reason)) => {
                        Some(ToWorker::Refuse(Refuse {
                            id: started.id,
                            reason: reason.to_owned(),
                        }))
                    }
                    _ => None,
                };
                publish.send_modify(|list: &mut Vec<_>| list.push(message));
                if let (Some(answer), Some(sender)) = (answer, answers.lock().await.as_mut()) {
                    // A worker that was ended by the test takes no answers.
                    let _ = sender.send(&answer).await;
                }
            }
        });
        Worker {
            child,
            model: addresses.0,
            proxy: addresses.1,
            messages,
            sender,
            reader,
        }
    }

    /// Closes the control channel.
    pub(crate) async fn abandon(&mut self) {
        self.reader.abort();
        let _ = (&mut self.reader).await;
        self.sender.lock().await.take();
    }

    /// Waits until the messages tell what is asked for.
    pub(crate) async fn until<T>(&self, tell: impl Fn(&[FromWorker]) -> Option<T>) -> T {
        let mut messages = self.messages.clone();
        within(async {
            loop {
                if let Some(told) = tell(&messages.borrow_and_update()) {
                    return told;
                }
                messages.changed().await.expect("the worker has ended");
            }
        })
        .await
    }

    /// The `number`th request that was started, from 0.
    pub(crate) async fn started(&self, number: usize) -> Started {
        self.until(|list| {
            let mut all = list.iter().filter_map(|message| match message {
                FromWorker::Started(started) => Some(started.clone()),
                _ => None,
            });
            all.nth(number)
        })
        .await
    }

    /// The `number`th request that has ended, from 0.
    pub(crate) async fn finished(&self, number: usize) -> Finished {
        self.until(|list| {
            let mut all = list.iter().filter_map(|message| match message {
                FromWorker::Finished(finished) => Some(finished.clone()),
                _ => None,
            });
            all.nth(number)
        })
        .await
    }

    /// The `number`th refusal, from 0.
    pub(crate) async fn refused(&self, number: usize) -> Refused {
        self.until(|list| {
            let mut all = list.iter().filter_map(|message| match message {
                FromWorker::Refused(refused) => Some(refused.clone()),
                _ => None,
            });
            all.nth(number)
        })
        .await
    }

    /// How many messages of any kind have come.
    pub(crate) fn count(&self) -> usize {
        self.messages.borrow().len()
    }
}

/// The program, with one end of a control channel as its standard input.
pub(crate) fn spawn(environment: &[(&str, &str)]) -> (Child, tokio::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_nemoclaw-egress"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, tokio::net::UnixStream::from_std(ours).unwrap())
}

/// A response body of the upstream's.
pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// An upstream that answers by a function of the test's, and remembers what it was asked.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) heads: Arc<Mutex<Vec<Parts>>>,
}

impl Fake {
    pub(crate) async fn start<F, A>(answer: F) -> Fake
    where
        F: Fn(Parts, Incoming) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Answer, Infallible>> + Send + 'static,
    {
        Fake::listening("http", answer, |stream| async { Ok(stream) }).await
    }

    /// One whose connections begin with `greet`.
    pub(crate) async fn listening<F, A, G, H, S>(scheme: &str, answer: F, greet: G) -> Fake
    where
        F: Fn(Parts, Incoming) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Answer, Infallible>> + Send + 'static,
        G: Fn(TcpStream) -> H + Send + 'static,
        H: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/base/v1", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                let seen = Arc::clone(&seen);
                let greeting = greet(stream);
                tokio::spawn(async move {
                    let Ok(stream) = greeting.await else {
                        return;
                    };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (parts, body) = request.into_parts();
                        seen.lock().unwrap().push(parts.clone());
                        answer(parts, body)
                    });
                    // Tests break connections off on purpose.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Fake { url, heads }
    }

    /// One that answers every request with the same JSON.
    pub(crate) async fn json(text: &'static str) -> Fake {
        Fake::start(move |_, body| async move {
            let _ = body.collect().await;
            Ok(json(text))
        })
        .await
    }

    pub(crate) fn asked(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

/// A JSON response.
pub(crate) fn json(text: &'static str) -> Answer {
    Response::builder()
        .header("content-type", "application/json")
        .body(
            Full::new(Bytes::from(text))
                .map_err(|never| match never {})
                .boxed(),
        )
        .unwrap()
}

/// A response that streams what the test sends; an error breaks it off.
pub(crate) fn streamed(kind: &str) -> (mpsc::Sender<io::Result<&'static str>>, Answer) {
    let (sender, receiver) = mpsc::channel::<io::Result<&'static str>>(1);
    let body = StreamBody::new(Received(receiver));
    let response = Response::builder()
        .header("content-type", kind)
        .body(BodyExt::boxed(body))
        .unwrap();
    (sender, response)
}

struct Received(mpsc::Receiver<io::Result<&'static str>>);

impl futures_core::Stream for Received {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|next| next.map(|piece| piece.map(|text| Frame::data(Bytes::from(text)))))
    }
}

/// A connection of the agent's.
pub(crate) struct Agent(pub(crate) TcpStream);

impl Agent {
    pub(crate) async fn connect(address: SocketAddr) -> Agent {
        Agent(within(TcpStream::connect(address)).await.unwrap())
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        within(self.0.write_all(text.as_ref())).await.unwrap();
    }

    /// All that comes until the connection ends, also by a reset.
    pub(crate) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = within(self.0.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// What comes until it ends in, or holds, `mark`.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        let mut all = String::new();
        let mut chunk = [0; 4096];
        within(async {
            while !all.contains(mark) {
                let read = self.0.read(&mut chunk).await.unwrap();
                assert!(read > 0, "the connection ended after {all:?}");
                all.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        })
        .await;
        all
    }
}

/// Sends bytes on a new connection and returns all that comes back.
pub(crate) async fn ask(address: SocketAddr, text: impl AsRef<[u8]>) -> String {
    let mut agent = Agent::connect(address).await;
    agent.send(text).await;
    agent.rest().await
}

/// A chat request, whole.
pub(crate) fn chat(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: inference.local\r\nAuthorization: Bearer agents-own\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
