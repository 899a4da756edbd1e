//! Host patterns: what a rule about the network speaks of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::diagnostic::quote;

/// The ports of a pattern that names none, in an allowance or an approval. A denial that names
/// none withholds every port.
pub const DEFAULT_PORTS: [u16; 2] = [443, 80];

/// Which hosts a pattern speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// `*`: every host. An allowance of it leaves out addresses that are not public.
    Any,
    /// Exactly this name, in small letters.
    Name(String),
    /// Every subdomain of this name at any depth, but not the name itself.
    Subdomains(String),
    /// The addresses whose first `prefix` bits are those of `base`.
    Network {
        /// The first address; its bits after `prefix` are zero.
        base: IpAddr,
        /// How many bits count.
        prefix: u8,
    },
}

/// A host pattern with its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// Which hosts.
    pub host: HostMatch,
    /// Which port; `None` when the text is silent, see [`DEFAULT_PORTS`].
    pub port: Option<u16>,
    /// The pattern as it was written.
    pub text: String,
}

/// Why a text is no host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

fn error<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, HostError> {
    Err(HostError {
        message: message.into(),
        hint: hint.into(),
    })
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return error(
                "the host pattern is empty",
                "name a host, or remove the entry",
            );
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            return error(
                format!(
                    "{} is an address of a page, and a host is wanted",
                    quote(text)
                ),
                format!("write {}", quote(host)),
            );
        }
        let (host, port) = split_port(text)?;
        let host = if host == "*" {
            HostMatch::Any
        } else if let Some((base, prefix)) = host.split_once('/') {
            network(text, base, prefix)?
        } else if let Ok(address) = host.parse::<IpAddr>() {
            let base = canonical(address);
            HostMatch::Network {
                base,
                prefix: bits(base),
            }
        } else if let Some(name) = host.strip_prefix("*.") {
            HostMatch::Subdomains(name_of(name)?)
        } else {
            HostMatch::Name(name_of(host)?)
        };
        Ok(Self {
            host,
            port,
            text: text.to_owned(),
        })
    }

    /// Whether a denial or an approval with this pattern speaks of the host.
    pub(crate) fn names(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (HostMatch::Any, _) => true,
            (HostMatch::Name(name), Host::Name(other)) => name == other,
            (HostMatch::Subdomains(parent), Host::Name(name)) => is_subdomain(name, parent),
            (HostMatch::Network { base, prefix }, Host::Address(address)) => {
                same_prefix(*base, *address, *prefix)
            }
            _ => false,
        }
    }

    /// Whether an allowance with this pattern speaks of the host: `*`, and a network as wide as
    /// the public internet, leave out what is not public, which needs its literal address.
    pub(crate) fn grants(&self, host: &Host) -> bool {
        self.names(host) && (!self.is_wide() || host.is_public())
    }

    /// Whether public hosts are among those of this pattern that it does not name one by one.
    pub(crate) fn is_wide(&self) -> bool {
        match self.host {
            HostMatch::Any => true,
            HostMatch::Name(_) | HostMatch::Subdomains(_) => false,
            HostMatch::Network { base, prefix } => {
                prefix < bits(base) && holds_public(base, prefix)
            }
        }
    }

    /// How narrowly the pattern speaks; the greater of two is the more specific.
    pub(crate) fn specificity(&self) -> (usize, usize, usize) {
        let port = usize::from(self.port.is_some());
        match &self.host {
            HostMatch::Any => (0, 0, port),
            HostMatch::Subdomains(parent) => (1, parent.split('.').count(), port),
            HostMatch::Name(name) => (2, name.split('.').count(), port),
            HostMatch::Network { prefix, .. } => (2, usize::from(*prefix), port),
        }
    }

    /// Whether every destination of `other` is one of this pattern, ports included.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        let ports = self.port.is_none() && other.port.is_none_or(|p| DEFAULT_PORTS.contains(&p))
            || self.port == other.port;
        ports && self.includes_host(other)
    }

    /// Whether every host of `other` is one of this pattern.
    pub(crate) fn includes_host(&self, other: &Self) -> bool {
        match (&self.host, &other.host) {
            (HostMatch::Any, _) => true,
            (HostMatch::Name(left), HostMatch::Name(right)) => left == right,
            (HostMatch::Subdomains(parent), HostMatch::Name(name)) => is_subdomain(name, parent),
            (HostMatch::Subdomains(parent), HostMatch::Subdomains(other)) => {
                parent == other || is_subdomain(other, parent)
            }
            (
                HostMatch::Network { base, prefix },
                HostMatch::Network {
                    base: other,
                    prefix: longer,
                },
            ) => prefix <= longer && same_prefix(*base, *other, *prefix),
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// One host that somebody wants to reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A name, in small letters, without a dot at its end.
    Name(String),
    /// An address; one of IPv4 inside IPv6 is the one of IPv4.
    Address(IpAddr),
}

impl Host {
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(canonical(address)));
        }
        Ok(Self::Name(name_of(text)?))
    }

    /// Whether the host may be reached without naming its literal address.
    pub(crate) fn is_public(&self) -> bool {
        match self {
            Self::Name(name) => !is_local_name(name),
            Self::Address(address) => is_public(*address),
        }
    }
}

/// Names that mean this machine, its network or its cloud's metadata service.
pub(crate) fn is_local_name(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "localhost",
        "ip6-localhost",
        "ip6-loopback",
        "metadata",
        "metadata.google.internal",
        "instance-data",
    ];
    const PARENTS: [&str; 2] = ["localhost", "localdomain"];
    NAMES.contains(&name) || PARENTS.iter().any(|parent| is_subdomain(name, parent))
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), HostError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return error(
                format!("`[` is never closed in {}", quote(text)),
                "write `]` after the address",
            );
        };
        if host
            .split('/')
            .next()
            .is_none_or(|base| base.parse::<Ipv6Addr>().is_err())
        {
            return error(
                format!("{} is no address of IPv6", quote(host)),
                "only such an address stands in `[…]`",
            );
        }
        return match rest.strip_prefix(':') {
            Some(digits) => Ok((host, Some(port_of(digits)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => error(
                format!("{} follows the address", quote(rest)),
                "only `:` and a port may follow `]`",
            ),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => {
            let (host, digits) = text.split_once(':').unwrap_or((text, ""));
            Ok((host, Some(port_of(digits)?)))
        }
        _ => Ok((text, None)),
    }
}

pub(crate) fn port_of(digits: &str) -> Result<u16, HostError> {
    let number = digits.parse::<u16>().ok().filter(|port| *port != 0);
    match number {
        Some(port) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => error(
            format!("{} is no port", quote(digits)),
            "write a number from 1 to 65535",
        ),
    }
}

fn network(text: &str, base: &str, prefix: &str) -> Result<HostMatch, HostError> {
    let Ok(address) = base.parse::<IpAddr>() else {
        return error(
            format!("{} names a path, and a host is wanted", quote(text)),
            "remove `/` and what follows; paths of requests are not supported yet by this version",
        );
    };
    let prefix = prefix
        .parse::<u8>()
        .ok()
        .filter(|count| *count <= bits(address) && prefix.bytes().all(|b| b.is_ascii_digit()));
    let Some(prefix) = prefix else {
        let most = bits(address);
        return error(
            format!(
                "the prefix of {} is no number from 0 to {most}",
                quote(text)
            ),
            format!("write `{address}/{most}` for this one address"),
        );
    };
    if let IpAddr::V6(six) = address
        && six.to_ipv4_mapped().is_some()
    {
        return error(
            format!("{} is a network of IPv4 written as IPv6", quote(text)),
            "write it as IPv4",
        );
    }
    let first = masked(address, prefix);
    if first != address {
        return error(
            format!("the address of {} has bits after its prefix", quote(text)),
            format!("write `{first}/{prefix}`"),
        );
    }
    Ok(HostMatch::Network {
        base: address,
        prefix,
    })
}

/// Checks a host name and writes it in small letters without a dot at its end.
fn name_of(text: &str) -> Result<String, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.contains('*') {
        return error(
            format!("`*` stands in the middle of {}", quote(text)),
            "write `*.example.com` for every subdomain, or `*` for every host",
        );
    }
    if !name.is_ascii() {
        return error(
            format!("{} holds letters outside ASCII", quote(text)),
            "write the name as it stands in DNS, beginning with `xn--`",
        );
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return error(
            format!("{} is no host name", quote(text)),
            "a host is a name such as `api.github.com`, an address, or a network such as `192.0.2.0/24`",
        );
    }
    // Resolvers read `127.1`, `0x7f.1` and `2130706433` as addresses.
    let last = name.rsplit('.').next().unwrap_or("");
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    if last.bytes().all(|byte| byte.is_ascii_digit()) || hexadecimal {
        return error(
            format!("{} is neither a name nor a whole address", quote(text)),
            "write all four numbers of the address",
        );
    }
    Ok(name)
}

fn is_subdomain(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(four.to_bits() & mask))
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & mask))
        }
    }
}

fn same_prefix(base: IpAddr, address: IpAddr, prefix: u8) -> bool {
    base.is_ipv4() == address.is_ipv4() && masked(base, prefix) == masked(address, prefix)
}

/// Whether a network holds public addresses. No special range begins and ends another network than
/// its own, but for those in which addresses of IPv4 are written.
fn holds_public(base: IpAddr, prefix: u8) -> bool {
    let last = match base {
        IpAddr::V4(four) => {
            let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(four.to_bits() | hosts))
        }
        IpAddr::V6(six) => {
            let hosts = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() | hosts))
        }
    };
    let written_in = match base {
        IpAddr::V4(_) => false,
        IpAddr::V6(six) => {
            let [first, second, ..] = six.segments();
            first == 0x2002 || (first == 0x64 && second == 0xff9b)
        }
    };
    prefix < 3 || written_in || is_public(base) || is_public(last)
}

/// Whether an address belongs to the public internet: none of the special ranges of the IANA
/// registries (RFC 6890) that lead to this machine, its network or its cloud.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(four) => is_public_v4(four),
        IpAddr::V6(six) => is_public_v6(six),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18)
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // 64:ff9b::/96 (RFC 6052) and 2002::/16 (RFC 3056) carry an address of IPv4.
    if first == 0x64 && second == 0xff9b {
        let low = address.to_bits() & u128::from(u32::MAX);
        return u32::try_from(low).is_ok_and(|bits| is_public_v4(Ipv4Addr::from_bits(bits)));
    }
    if first == 0x2002 {
        let inner = (address.to_bits() >> 80) & u128::from(u32::MAX);
        return u32::try_from(inner).is_ok_and(|bits| is_public_v4(Ipv4Addr::from_bits(bits)));
    }
    // 2000::/3 is all that is given out; 2001::/23 in it is for protocols, 2001:db8::/32 for books.
    (first & 0xe000 == 0x2000)
        && !(first == 0x2001 && second < 0x200)
        && !(first == 0x2001 && second == 0xdb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_star_means_subdomains_of_any_depth_and_not_the_apex() {
        let star = pattern("*.company.com");
        assert!(star.grants(&host("a.company.com")));
        assert!(star.grants(&host("A.B.Company.COM.")));
        assert!(!star.grants(&host("company.com")));
        assert!(!star.grants(&host("evilcompany.com")));
        assert!(!star.grants(&host("company.com.evil.net")));
    }

    #[test]
    fn any_host_does_not_grant_what_is_not_public_but_denies_it() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "100.100.100.200",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "localhost",
            "x.localhost",
            "metadata.google.internal",
            "::",
            "224.0.0.1",
        ] {
            assert!(!pattern("*").grants(&host(text)), "{text}");
            assert!(pattern("*").names(&host(text)), "{text}");
        }
        assert!(pattern("*").grants(&host("93.184.216.34")));
        assert!(pattern("*").grants(&host("2606:2800::1")));
        assert!(pattern("127.0.0.1").grants(&host("127.0.0.1")));
        assert!(pattern("10.0.0.0/8").grants(&host("::ffff:10.9.8.7")));
    }

    #[test]
    fn a_network_of_public_addresses_does_not_grant_those_that_are_not() {
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "192.0.0.0/8",
            "172.0.0.0/8",
            "::/0",
            "::/2",
            "64:ff9b::/96",
            "2002::/16",
        ] {
            let wide = pattern(text);
            for host in [
                "127.0.0.1",
                "10.0.0.1",
                "192.168.0.1",
                "172.16.0.1",
                "169.254.169.254",
                "::1",
                "64:ff9b::7f00:1",
                "2002:7f00:1::",
            ] {
                assert!(!wide.grants(&self::host(host)), "{text} {host}");
            }
        }
        assert!(pattern("0.0.0.0/0").grants(&host("93.184.216.34")));
        assert!(pattern("0.0.0.0/0").names(&host("127.0.0.1")));
        for (text, inside) in [
            ("127.0.0.0/8", "127.1.2.3"),
            ("172.16.0.0/12", "172.31.0.1"),
            ("192.168.0.0/16", "192.168.7.7"),
            ("100.64.0.0/10", "100.127.0.1"),
            ("fd00::/8", "fd00::1"),
            ("2002:7f00:1::", "2002:7f00:1::"),
        ] {
            assert!(pattern(text).grants(&host(inside)), "{text}");
        }
    }

    #[test]
    fn ports_and_networks_are_read() {
        assert_eq!(pattern("a.example:8443").port, Some(8443));
        assert_eq!(pattern("[fd00::1]:22").port, Some(22));
        assert_eq!(pattern("fd00::/8").port, None);
        assert_eq!(pattern("10.0.0.0/8:22").port, Some(22));
        assert!(pattern("fd00::/8").grants(&host("fd12::9")));
        assert!(!pattern("10.0.0.0/8").grants(&host("11.0.0.1")));
        assert!(pattern("0.0.0.0/0").names(&host("11.0.0.1")));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "https://a.example/x",
            "a..b",
            "a.*.b",
            "*a.example",
            "a/b",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "127.1",
            "0x7f.1",
            "2130706433",
            "1.2.3.0x4",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "[::1",
            "[::1]x",
            "[a.example]:1",
            "ü.example",
            "-a.example",
            "a b",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
