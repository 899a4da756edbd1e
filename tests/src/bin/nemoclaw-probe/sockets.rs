//! Tries on sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sendto, socket};
use serde_json::Value;

use crate::{Failure, Outcome, unable};

const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        "socket" => open(target),
        "connect" => address(target).and_then(|address| {
            TcpStream::connect_timeout(&address, PATIENCE)?;
            Ok(Value::Null)
        }),
        "send-udp" => address(target).and_then(|address| {
            let socket = UdpSocket::bind(if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            })?;
            socket.send_to(b"x", address)?;
            Ok(Value::Null)
        }),
        "fast-open" => fast_open(target),
        "connect-unix" => UnixStream::connect(target)
            .map(|_| Value::Null)
            .map_err(Into::into),
        "connect-abstract" => abstract_socket(target),
        "listen" => TcpListener::bind(target)
            .map(|_| Value::Null)
            .map_err(Into::into),
        "loopback" => loopback(target),
        "resolve" => resolve(target),
        "interfaces" => interfaces(),
        _ => return None,
    })
}

fn address(target: &str) -> Result<SocketAddr, Failure> {
    target.parse().map_err(|_| unable("no address and port"))
}

/// `FAMILY:TYPE[:PROTOCOL]`, by name or number.
fn open(target: &str) -> Outcome {
    let mut words = target.split(':');
    let mut next = |names: &[(&str, i32)]| -> Result<i32, Failure> {
        let word = words.next().unwrap_or("0");
        let named = names
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, value)| *value);
        named
            .or_else(|| word.parse().ok())
            .ok_or_else(|| unable("no such word"))
    };
    let family = next(&[
        ("unix", libc::AF_UNIX),
        ("inet", libc::AF_INET),
        ("inet6", libc::AF_INET6),
        ("netlink", libc::AF_NETLINK),
        ("packet", libc::AF_PACKET),
        ("alg", libc::AF_ALG),
        ("vsock", libc::AF_VSOCK),
        ("bluetooth", libc::AF_BLUETOOTH),
        ("can", libc::AF_CAN),
        ("tipc", libc::AF_TIPC),
        ("xdp", libc::AF_XDP),
        ("key", libc::AF_KEY),
        ("rds", libc::AF_RDS),
        ("qipcrtr", 42),
        ("smc", 43),
    ])?;
    let kind = next(&[
        ("stream", libc::SOCK_STREAM),
        ("datagram", libc::SOCK_DGRAM),
        ("raw", libc::SOCK_RAW),
        ("seqpacket", libc::SOCK_SEQPACKET),
    ])?;
    let protocol = next(&[
        ("mptcp", libc::IPPROTO_MPTCP),
        ("sctp", libc::IPPROTO_SCTP),
        ("icmp", libc::IPPROTO_ICMP),
        ("route", libc::NETLINK_ROUTE),
        ("audit", libc::NETLINK_AUDIT),
        ("netfilter", libc::NETLINK_NETFILTER),
        ("uevent", libc::NETLINK_KOBJECT_UEVENT),
        ("diag", libc::NETLINK_SOCK_DIAG),
        ("generic", libc::NETLINK_GENERIC),
        ("xfrm", libc::NETLINK_XFRM),
    ])?;
    // SAFETY: socket(2) takes three numbers.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(descriptor)?;
    // SAFETY: the call answered a new descriptor, which nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(Value::Null)
}

/// Connects without connect(2) (tcp(7), "MSG_FASTOPEN").
fn fast_open(target: &str) -> Outcome {
    let SocketAddr::V4(address) = address(target)? else {
        return Err(unable("no IPv4 address"));
    };
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    sendto(socket.as_raw_fd(), b"x", &SockaddrIn::from(address), flags)?;
    Ok(Value::Null)
}

fn abstract_socket(name: &str) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let address = UnixAddress::from_abstract_name(name)?;
    UnixStream::connect_addr(&address)?;
    Ok(Value::Null)
}

/// A server and a client of its own, at an address such as `127.0.0.1`.
fn loopback(host: &str) -> Outcome {
    let address = |port| -> Result<SocketAddr, Failure> {
        let host = host.parse().map_err(|_| unable("no address"))?;
        Ok(SocketAddr::new(host, port))
    };
    let listener = TcpListener::bind(address(0)?)?;
    let mut client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"through loopback")?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    server.set_read_timeout(Some(PATIENCE))?;
    server.read_to_string(&mut text)?;
    Ok(text.into())
}

/// What the C library makes of a name.
fn resolve(name: &str) -> Outcome {
    match (name, 0_u16).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip().to_string()).collect()),
        Err(error) => Err(unable(error.to_string())),
    }
}

fn interfaces() -> Outcome {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    let names = text.lines().filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

/// `HOST:PORT`, resolved as programs do.
pub(crate) fn dial(target: &str) -> Result<TcpStream, Failure> {
    let address = target
        .to_socket_addrs()
        .map_err(|error| unable(error.to_string()))?
        .next()
        .ok_or_else(|| unable("no address"))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::two;

    #[test]
    fn a_socket_is_opened_by_name_and_by_number() {
        assert!(open("unix:stream").is_ok());
        assert!(open("1:1:0").is_ok());
        assert!(matches!(open("unix:nonsense"), Err(Failure::Unable(_))));
    }

    #[test]
    fn two_targets_are_parted_at_the_first_colon() {
        let seen = two("a:b:c", |one, other| Ok(format!("{one} {other}").into()));
        assert_eq!(seen.unwrap(), "a b:c");
    }
}
