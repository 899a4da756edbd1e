//! The listeners, their connections, and what each request on them gets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::forward::{Arrival, Ending, Outgoing, Service};
use super::patience::Patient;
use super::refusal::Refusal;
use super::target::{Asked, Entry, Target, check};
use crate::protocol::{ListenerKind, Refused};

/// After a failed `accept`, which is mostly a want of descriptors or memory.
const REST: Duration = Duration::from_millis(50);
/// Room for this many is made with each request.
const MOST_HEADERS: u32 = 4096;
/// hyper's own lower bound.
const LEAST_HEADER_BYTES: usize = 8192;

/// One connection of the agent's. The place among the connections is given back when the last use
/// of it is dropped.
struct Connection {
    service: Arc<Service>,
    peer_port: u16,
    _place: OwnedSemaphorePermit,
}

/// Serves one listener for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    kind: ListenerKind,
    service: Arc<Service>,
    places: Arc<Semaphore>,
) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => accepted(stream, peer, kind, &service, place),
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

fn accepted(
    stream: TcpStream,
    peer: SocketAddr,
    kind: ListenerKind,
    service: &Arc<Service>,
    place: OwnedSemaphorePermit,
) {
    let entry = match (kind, stream.local_addr()) {
        (ListenerKind::Proxy, _) => Entry::Proxy,
        (ListenerKind::Model, Ok(ours)) => Entry::Model { port: ours.port() },
        // The agent closed it already.
        (ListenerKind::Model, Err(_)) => return,
    };
    // Only slower without it.
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection {
        service: Arc::clone(service),
        peer_port: peer.port(),
        _place: place,
    });
    let most = Duration::from_millis(service.limits.client_idle_milliseconds);
    let stream = Patient::new(TokioIo::new(stream), most);
    tokio::spawn(converse(stream, entry, connection));
}

/// Serves one connection, or one tunnel inside it, to its end.
async fn converse<S>(stream: S, entry: Entry, connection: Arc<Connection>)
where
    S: Read + Write + Unpin + Send + 'static,
{
    let limits = &connection.service.limits;
    let header_bytes = usize::try_from(limits.header_bytes)
        .unwrap_or(usize::MAX)
        .max(LEAST_HEADER_BYTES);
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_milliseconds))
        .max_headers(usize::try_from(limits.headers.clamp(1, MOST_HEADERS)).unwrap_or(1))
        .max_header_size(header_bytes)
        .max_buf_size(header_bytes);
    let answer = service_fn(|request| {
        let answer = answer(request, entry, Arc::clone(&connection));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let ended = server
        .serve_connection(stream, answer)
        .with_upgrades()
        .await;
    if let Err(error) = ended
        && error.is_parse()
    {
        let status = if error.is_parse_too_large() {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        connection
            .service
            .ledger
            .refused(Refused {
                via: None,
                method: String::new(),
                destination: String::new(),
                path: String::new(),
                peer_port: connection.peer_port,
                status: status.as_u16(),
                code: "malformed_request".to_owned(),
                reason: format!("the bytes are no HTTP/1.1 request: {error}"),
            })
            .await;
    }
}

/// Judges the head at once, and returns the future of the response. A refusal is on its way to the
/// record before the future is first polled, because an agent that hangs up has it dropped unpolled.
fn answer(
    request: Request<Incoming>,
    entry: Entry,
    connection: Arc<Connection>,
) -> impl Future<Output = Response<Outgoing>> + Send {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let asked = Asked::of(entry, &parts);
    let method = parts.method.as_str().to_owned();
    let judged = match check(entry, &parts) {
        Err(refusal) => Err(record(refusal, asked, method, Arc::clone(&connection))),
        Ok(Target::Tunnel) => {
            let upgrade = hyper::upgrade::on(Request::from_parts(parts, body));
            tokio::spawn(tunnel(upgrade, Arc::clone(&connection)));
            Ok(None)
        }
        Ok(Target::Model { below }) => Ok(Some((parts, body, below, asked, method))),
    };
    async move {
        let (parts, body, below, asked, method) = match judged {
            Ok(Some(served)) => served,
            Ok(None) => return Response::new(Either::Left(Full::default())),
            Err(recorded) => return recorded.await,
        };
        let arrival = Arrival {
            asked: asked.clone(),
            peer_port: connection.peer_port,
            parts,
            body,
            below,
            arrived,
        };
        match connection.service.forward(arrival).await {
            Ok(response) => response,
            Err(Ending::Recorded(refusal)) => refusal.response().map(Either::Left),
            Err(Ending::Refused(refusal)) => record(refusal, asked, method, connection).await,
        }
    }
}

/// Puts a refusal on record, whether or not the agent waits for it, and returns the future of its
/// response, which comes when the record is on its way.
fn record(
    refusal: Refusal,
    asked: Asked,
    method: String,
    connection: Arc<Connection>,
) -> impl Future<Output = Response<Outgoing>> + Send + use<> {
    let refused = Refused {
        via: Some(asked.via),
        method,
        destination: asked.destination,
        path: asked.path,
        peer_port: connection.peer_port,
        status: refusal.status.as_u16(),
        code: refusal.code.to_owned(),
        reason: refusal.reason.clone(),
    };
    // The task holds the connection's place, so that an agent that hangs up at once cannot pile
    // up such tasks.
    let told = tokio::spawn(async move { connection.service.ledger.refused(refused).await });
    async move {
        // It fails only when the worker ends.
        let _ = told.await;
        refusal.response().map(Either::Left)
    }
}

/// Serves requests inside a tunnel as on any connection. Boxed, because a connection's type would
/// otherwise contain itself.
fn tunnel(
    upgrade: hyper::upgrade::OnUpgrade,
    connection: Arc<Connection>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        // It fails when the agent hangs up instead of using its tunnel.
        if let Ok(stream) = upgrade.await {
            converse(stream, Entry::Tunnel, connection).await;
        }
    })
}
