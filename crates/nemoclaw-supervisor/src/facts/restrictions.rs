//! Settings with which hosts keep ordinary users from user namespaces.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Something the host does not give, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lack {
    /// The reason.
    pub(crate) why: String,
    /// The remedy.
    pub(crate) remedy: String,
}

/// The settings as read; `None` where this kernel has no such setting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restrictions {
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    pub(crate) apparmor_restrict_userns: Option<u64>,
    /// `kernel.unprivileged_userns_clone` (Debian's older kernels, Arch's hardened one).
    pub(crate) unprivileged_userns_clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub(crate) max_user_namespaces: Option<u64>,
    /// The AppArmor profile that confines this process, `None` without AppArmor.
    pub(crate) apparmor_profile: Option<String>,
}

/// Where the profile that the project ships is installed, and how.
pub(crate) const PROFILE_REMEDY: &str = "install the shipped profile as root: `install -m 644 packaging/apparmor/nemoclaw-supervisor /etc/apparmor.d/ && apparmor_parser -r /etc/apparmor.d/nemoclaw-supervisor`";

impl Restrictions {
    /// Reads the settings under `/proc/sys` and the profile of this process.
    pub(crate) fn read(proc_sys: &Path, sys: &Path) -> Self {
        let number = |name: &str| {
            fs::read_to_string(proc_sys.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let apparmor = fs::read_to_string(sys.join("module/apparmor/parameters/enabled"))
            .is_ok_and(|text| text.trim() == "Y");
        let profile = || fs::read_to_string("/proc/self/attr/apparmor/current").ok();
        Self {
            apparmor_restrict_userns: number("kernel/apparmor_restrict_unprivileged_userns"),
            unprivileged_userns_clone: number("kernel/unprivileged_userns_clone"),
            max_user_namespaces: number("user/max_user_namespaces"),
            apparmor_profile: apparmor
                .then(profile)
                .flatten()
                .map(|text| text.trim().to_owned()),
        }
    }

    /// The setting that keeps this process from user namespaces, if one does.
    pub(crate) fn against(&self, privileged: bool, profile: Option<&str>) -> Option<Lack> {
        let lack = |why: &str, remedy: &str| {
            Some(Lack {
                why: why.to_owned(),
                remedy: remedy.to_owned(),
            })
        };
        if self.max_user_namespaces == Some(0) {
            return lack(
                "`user.max_user_namespaces` is 0: no one may make a user namespace",
                "as root: `sysctl user.max_user_namespaces=15000`, and in `/etc/sysctl.d/` to keep it",
            );
        }
        if privileged {
            return None;
        }
        if self.unprivileged_userns_clone == Some(0) {
            return lack(
                "`kernel.unprivileged_userns_clone` is 0: only root may make a user namespace",
                "as root: `sysctl kernel.unprivileged_userns_clone=1`, and in `/etc/sysctl.d/` to keep it; or start with sudo",
            );
        }
        // A process with a profile of its own is judged by that profile; only the unconfined are restricted.
        if self
            .apparmor_restrict_userns
            .is_some_and(|value| value != 0)
            && profile.is_none_or(|profile| profile == "unconfined")
        {
            return lack(
                "`kernel.apparmor_restrict_unprivileged_userns` is 1: AppArmor takes the capabilities away in user namespaces of programs without a profile",
                PROFILE_REMEDY,
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restriction_of_ubuntu_names_the_profile_as_its_remedy() {
        let host = Restrictions {
            apparmor_restrict_userns: Some(1),
            ..Restrictions::default()
        };
        assert_eq!(
            host.against(false, Some("unconfined")).unwrap().remedy,
            PROFILE_REMEDY
        );
        assert_eq!(
            host.against(false, Some("nemoclaw-supervisor (unconfined)")),
            None
        );
        assert_eq!(host.against(true, Some("unconfined")), None);
    }

    #[test]
    fn a_limit_of_zero_stops_root_as_well() {
        let host = Restrictions {
            max_user_namespaces: Some(0),
            ..Restrictions::default()
        };
        assert!(
            host.against(true, None)
                .unwrap()
                .remedy
                .contains("max_user_namespaces")
        );
        let host = Restrictions {
            unprivileged_userns_clone: Some(0),
            ..Restrictions::default()
        };
        assert_eq!(host.against(true, None), None);
        assert!(
            host.against(false, None)
                .unwrap()
                .why
                .contains("unprivileged_userns_clone")
        );
    }

    #[test]
    fn settings_are_read_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kernel")).unwrap();
        fs::create_dir_all(root.path().join("user")).unwrap();
        fs::write(
            root.path()
                .join("kernel/apparmor_restrict_unprivileged_userns"),
            "1\n",
        )
        .unwrap();
        fs::write(root.path().join("user/max_user_namespaces"), "95\n").unwrap();
        assert_eq!(
            Restrictions::read(root.path(), root.path()),
            Restrictions {
                apparmor_restrict_userns: Some(1),
                max_user_namespaces: Some(95),
                ..Restrictions::default()
            }
        );
    }
}
