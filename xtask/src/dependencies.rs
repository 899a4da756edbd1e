//! What building and testing needs from the system, and how to get it.
//!
//! The compiler itself is the business of `scripts/`, since this program is built with it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{run, say};
use crate::workspace::{find_program, is_root};

/// A program that must be on `PATH`, and the Debian and Ubuntu packages that bring it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
}

const NEEDS: [Need; 3] = [
    Need {
        program: "cc",
        packages: &["gcc", "libc6-dev"],
        purpose: "linking, and the assembly of the TLS library",
    },
    Need {
        program: "npm",
        packages: &["npm"],
        purpose: "installing OpenClaw",
    },
    Need {
        program: "setpriv",
        packages: &["util-linux"],
        purpose: "running the tests as an ordinary user",
    },
];

/// Installs what is missing, with apt and (when not root) sudo; nothing is asked.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&Need> = NEEDS
        .iter()
        .filter(|need| find_program(need.program).is_none())
        .collect();
    if missing.is_empty() {
        say("everything that building and testing needs is there");
        return Ok(());
    }
    for need in &missing {
        say(&format!(
            "missing: `{}`, for {}",
            need.program, need.purpose
        ));
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    let remedy = format!("as root: apt-get install {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!("there is no `apt-get` here; install the missing programs, then try again");
    }
    if !is_root() && find_program("sudo").is_none() {
        bail!("installing packages needs root, and there is no `sudo`; {remedy}");
    }
    let apt = |arguments: &[&str]| {
        let mut command = if is_root() {
            Command::new("env")
        } else {
            let mut command = Command::new("sudo");
            command.args(["-n", "env"]);
            command
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]);
        command.args(arguments);
        command
    };
    let lists = Path::new("/var/lib/apt/lists");
    let outcome = run(&mut apt(&["update"])).and_then(|()| {
        let mut command = apt(&["install", "-y", "--no-install-recommends"]);
        run(command.args(&packages))
    });
    if let Err(error) = outcome {
        bail!(
            "{error:#}; {remedy} (the package lists are in `{}`)",
            lists.display()
        );
    }
    Ok(())
}
