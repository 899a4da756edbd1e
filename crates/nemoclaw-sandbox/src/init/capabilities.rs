//! Empties the capability sets (capabilities(7)).

use std::io;

use caps::CapSet;
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

/// Drops every capability from all five sets and locks the bits by which uid 0
/// or an ambient set could bring any back.
pub(super) fn drop_all() -> io::Result<()> {
    // Both the secure bits and the bounding set need CAP_SETPCAP, which the last
    // lines give away.
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    for set in [
        CapSet::Bounding,
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
    }
    for set in [CapSet::Bounding, CapSet::Permitted, CapSet::Inheritable] {
        let left = caps::read(None, set).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
        if !left.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}
