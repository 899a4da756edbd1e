//! Network: nothing but the sandbox's own loopback.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use nemoclaw_tests::Bench;
use serde_json::json;

#[test]
fn loopback_is_the_only_interface_and_works() {
    let bench = Bench::new();
    let run = bench.probe(
        &bench.policy(),
        &[
            "interfaces",
            "loopback:127.0.0.1",
            "loopback:::1",
            "resolve:localhost",
            "socket:netlink:raw:route",
        ],
    );
    assert_eq!(run.allowed("interfaces"), json!(["lo"]));
    assert_eq!(run.allowed("loopback:127.0.0.1"), "through loopback");
    assert_eq!(run.allowed("loopback:::1"), "through loopback");
    run.allowed("resolve:localhost");
    // The C library asks it for the interfaces.
    run.allowed("socket:netlink:raw:route");
}

#[test]
fn the_hosts_loopback_is_another() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = format!("connect:{address}");
    let fast_open = format!("fast-open:{address}");
    let run = bench.probe(&bench.policy(), &[&connect, &fast_open]);
    run.refused_as(&connect, &["ECONNREFUSED"]);
    run.refused_as(&fast_open, &["EPERM"]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nothing came");
}

#[test]
fn no_address_beyond_loopback_is_reached() {
    let bench = Bench::new();
    let tries = [
        "connect:1.1.1.1:443",
        "connect:10.0.0.1:80",
        "connect:169.254.169.254:80",
        "connect:[2606:4700:4700::1111]:443",
        "connect:[fe80::1]:80",
        "connect:255.255.255.255:80",
        "send-udp:1.1.1.1:53",
        "send-udp:224.0.0.1:5353",
        "send-udp:[2606:4700:4700::1111]:53",
        "fast-open:1.1.1.1:443",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    for word in &tries[..tries.len() - 1] {
        run.refused_as(
            word,
            &["ENETUNREACH", "EPERM", "EACCES", "EINVAL", "EADDRNOTAVAIL"],
        );
    }
    run.refused_as(tries[tries.len() - 1], &["EPERM"]);
}

#[test]
fn names_are_not_resolved() {
    let bench = Bench::new();
    let run = bench.probe(
        &bench.policy(),
        &["resolve:example.com", "resolve:inference.local"],
    );
    for word in ["resolve:example.com", "resolve:inference.local"] {
        assert!(!run.find(word).ok, "{run}");
    }
}

#[test]
fn rare_kinds_of_sockets_are_refused_before_the_kernel_looks_at_them() {
    let bench = Bench::new();
    let tries = [
        "socket:inet:stream:mptcp",
        "socket:inet6:stream:mptcp",
        "socket:inet:stream:sctp",
        "socket:inet:seqpacket:sctp",
        "socket:inet:raw:icmp",
        "socket:inet6:raw:58",
        "socket:packet:raw",
        "socket:packet:datagram",
        "socket:vsock:stream",
        "socket:alg:seqpacket",
        "socket:bluetooth:raw",
        "socket:can:raw",
        "socket:tipc:stream",
        "socket:xdp:raw",
        "socket:key:raw",
        "socket:rds:seqpacket",
        "socket:qipcrtr:datagram",
        "socket:smc:stream",
        "socket:netlink:raw:audit",
        "socket:netlink:raw:netfilter",
        "socket:netlink:raw:uevent",
        "socket:netlink:raw:diag",
        "socket:netlink:raw:generic",
        "socket:netlink:raw:xfrm",
        "socket:9999:stream",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    for word in tries {
        run.refused_as(word, &["EPERM", "EAFNOSUPPORT"]);
    }
}

#[test]
fn sockets_of_the_host_by_path_or_abstract_name_are_not_reached() {
    let bench = Bench::new();
    let path = bench.outside("socket");
    let _by_path = UnixListener::bind(&path).unwrap();
    let name = format!("nemoclaw-test-{}", bench.name);
    let address = {
        use std::os::linux::net::SocketAddrExt;
        std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap()
    };
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let by_path = format!("connect-unix:{}", path.display());
    let by_name = format!("connect-abstract:{name}");
    let tries = [
        by_path.as_str(),
        by_name.as_str(),
        "connect-unix:/run/docker.sock",
        "connect-unix:/var/run/docker.sock",
        "connect-unix:/run/dbus/system_bus_socket",
        "connect-unix:/run/systemd/private",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    run.all_refused(&tries);
}

#[test]
fn sockets_of_the_agents_own_work() {
    let bench = Bench::new();
    let run = bench.probe(
        &bench.policy(),
        &[
            "socket:unix:stream",
            "socket:unix:datagram",
            "socket:unix:seqpacket",
            "socket:inet:datagram",
            "listen:0.0.0.0:8080",
        ],
    );
    for found in run.tries() {
        assert!(found.ok, "{found:?}");
    }
}
