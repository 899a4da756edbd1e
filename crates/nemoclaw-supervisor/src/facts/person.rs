//! Who started us: files made in the workspace are to belong to them, and `~` is their home.

use nix::unistd::{Gid, Uid, User};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The person behind this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Person {
    /// The user id.
    pub(crate) uid: u32,
    /// The group id: sudo's, or the process's own.
    pub(crate) gid: u32,
    /// The name in the user database.
    pub(crate) name: String,
    /// The home directory in the user database.
    pub(crate) home: String,
}

/// Why the person is not known.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PersonError {
    /// An id that sudo passed on is not a number.
    #[error("`{variable}` is `{value}`, which is no id; start again through sudo, or unset it")]
    Id {
        variable: &'static str,
        value: String,
    },
    /// One of the two is missing.
    #[error("`{present}` is set and `{absent}` is not; start again through sudo, or unset both")]
    Half {
        present: &'static str,
        absent: &'static str,
    },
    /// The database has no such user, and nothing else says where their home is.
    #[error("user {0} is not in the user database; add an entry to `/etc/passwd`, or set `HOME`")]
    Unknown(u32),
    /// The home has a name that no policy can write.
    #[error("the home directory of user {0} is no absolute UTF-8 path; change it in `/etc/passwd`")]
    Home(u32),
    /// The database could not be read.
    #[error("could not look up user {uid}: {reason}")]
    LookUp { uid: u32, reason: String },
}

impl Person {
    /// The person who started this process; behind sudo, who called it.
    ///
    /// `SUDO_UID` and `SUDO_GID` count only for root: anyone can set them, and only root can act for another.
    ///
    /// # Errors
    /// When the variables are half or wrongly set, or the user database does not have the person.
    pub(crate) fn who_started() -> Result<Self, PersonError> {
        let (uid, gid) = ids(
            Uid::effective().as_raw(),
            (Uid::current().as_raw(), Gid::current().as_raw()),
            std::env::var_os("SUDO_UID").map(|value| value.to_string_lossy().into_owned()),
            std::env::var_os("SUDO_GID").map(|value| value.to_string_lossy().into_owned()),
        )?;
        let user = User::from_uid(Uid::from_raw(uid)).map_err(|error| PersonError::LookUp {
            uid,
            reason: error.desc().to_lowercase(),
        })?;
        let Some(user) = user else {
            // Containers and CI run as ids that nobody entered anywhere. Behind sudo `HOME` may be root's.
            let home = std::env::var("HOME")
                .ok()
                .filter(|_| uid == Uid::current().as_raw());
            return Self::unlisted(uid, gid, home);
        };
        let home = user
            .dir
            .to_str()
            .filter(|home| home.starts_with('/'))
            .ok_or(PersonError::Home(uid))?
            .to_owned();
        Ok(Self {
            uid,
            gid,
            name: user.name,
            home,
        })
    }
}

impl Person {
    /// A person whom the database does not have.
    fn unlisted(uid: u32, gid: u32, home: Option<String>) -> Result<Self, PersonError> {
        Ok(Self {
            uid,
            gid,
            name: format!("uid-{uid}"),
            home: home
                .filter(|home| home.starts_with('/'))
                .ok_or(PersonError::Unknown(uid))?,
        })
    }
}

fn ids(
    effective: u32,
    real: (u32, u32),
    sudo_uid: Option<String>,
    sudo_gid: Option<String>,
) -> Result<(u32, u32), PersonError> {
    const UID: &str = "SUDO_UID";
    const GID: &str = "SUDO_GID";
    let id = |variable, value: String| match value.parse() {
        // The highest id means "none" to the kernel (`setresuid(2)`).
        Ok(u32::MAX) | Err(_) => Err(PersonError::Id { variable, value }),
        Ok(id) => Ok(id),
    };
    match (effective, sudo_uid, sudo_gid) {
        (0, Some(uid), Some(gid)) => Ok((id(UID, uid)?, id(GID, gid)?)),
        (0, Some(_), None) => Err(PersonError::Half {
            present: UID,
            absent: GID,
        }),
        (0, None, Some(_)) => Err(PersonError::Half {
            present: GID,
            absent: UID,
        }),
        _ => Ok(real),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn sudo_is_believed_for_root_only() {
        assert_eq!(ids(0, (0, 0), some("1000"), some("1001")), Ok((1000, 1001)));
        assert_eq!(
            ids(1002, (1002, 1003), some("0"), some("0")),
            Ok((1002, 1003))
        );
        assert_eq!(ids(0, (0, 0), None, None), Ok((0, 0)));
    }

    #[test]
    fn a_person_without_an_entry_is_known_by_their_number_and_their_home() {
        let person = Person::unlisted(60_917, 5, some("/home/x")).unwrap();
        assert_eq!(
            (person.name.as_str(), person.home.as_str()),
            ("uid-60917", "/home/x")
        );
        for home in [None, some("relative")] {
            assert_eq!(
                Person::unlisted(60_917, 5, home),
                Err(PersonError::Unknown(60_917))
            );
        }
    }

    #[test]
    fn half_or_wrong_ids_of_sudo_are_refused() {
        for bad in ["", "-1", "4294967295", "x", "1000 "] {
            let refused = ids(0, (0, 0), some(bad), some("1000")).unwrap_err();
            assert_eq!(
                refused,
                PersonError::Id {
                    variable: "SUDO_UID",
                    value: bad.to_owned()
                }
            );
        }
        assert!(matches!(
            ids(0, (0, 0), some("1000"), None),
            Err(PersonError::Half { .. })
        ));
        assert!(matches!(
            ids(0, (0, 0), None, some("1000")),
            Err(PersonError::Half { .. })
        ));
    }
}
