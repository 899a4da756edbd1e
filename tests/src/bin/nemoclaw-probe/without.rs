//! Makes the kernel seem to lack a mechanism, for whatever is executed from here: a filter of
//! system calls that answers as a kernel does that was built without it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;

/// A call that fails; with a condition, only where an argument has a value or one of some bits.
struct Lack {
    call: libc::c_long,
    when: Option<When>,
    errno: Errno,
}

struct When {
    argument: u32,
    test: u16,
    value: u32,
}

/// `CLONE_NEWUSER`
const NEW_USER: u32 = 0x1000_0000;

fn lacks(mechanism: &str) -> Option<Vec<Lack>> {
    let all = |call, errno| Lack {
        call,
        when: None,
        errno,
    };
    let bits = |call, argument, value, errno| {
        let when = When {
            argument,
            test: jump(libc::BPF_JSET),
            value,
        };
        Lack {
            call,
            when: Some(when),
            errno,
        }
    };
    Some(match mechanism {
        "landlock" => vec![all(libc::SYS_landlock_create_ruleset, Errno::ENOSYS)],
        "seccomp" => {
            let when = When {
                argument: 0,
                test: jump(libc::BPF_JEQ),
                value: 22,
            };
            vec![
                all(libc::SYS_seccomp, Errno::ENOSYS),
                // PR_SET_SECCOMP
                Lack {
                    call: libc::SYS_prctl,
                    when: Some(when),
                    errno: Errno::EINVAL,
                },
            ]
        }
        // A listener, SECCOMP_FILTER_FLAG_NEW_LISTENER, which came with Linux 5.0.
        "refusal-reports" => vec![bits(libc::SYS_seccomp, 1, 8, Errno::EINVAL)],
        "namespaces" => vec![
            bits(libc::SYS_unshare, 0, NEW_USER, Errno::EPERM),
            bits(libc::SYS_clone, 0, NEW_USER, Errno::EPERM),
            all(libc::SYS_clone3, Errno::ENOSYS),
        ],
        _ => return None,
    })
}

/// `MECHANISM COMMAND…`
pub(crate) fn run(words: &[OsString]) -> ExitCode {
    let complain = |text: &str| {
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(io::stderr(), "nemoclaw-probe: {text}");
        ExitCode::from(64)
    };
    let [mechanism, command, arguments @ ..] = words else {
        return complain("without MECHANISM COMMAND…");
    };
    let Some(lacks) = lacks(&mechanism.to_string_lossy()) else {
        return complain("no such mechanism");
    };
    if let Err(error) = install(&program(&lacks)) {
        return complain(&error.to_string());
    }
    let error = Command::new(command).args(arguments).exec();
    complain(&error.to_string())
}

/// Where `struct seccomp_data` has the call's number and its arguments' lower halves.
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;

fn program(lacks: &[Lack]) -> Vec<libc::sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let mut program = Vec::new();
    for lack in lacks {
        let number = u32::try_from(lack.call).unwrap_or(u32::MAX);
        let body = if lack.when.is_some() { 3 } else { 1 };
        program.push(load(NUMBER));
        program.push(branch(jump(libc::BPF_JEQ), number, 0, body));
        if let Some(when) = &lack.when {
            program.push(load(ARGUMENTS + 8 * when.argument));
            program.push(branch(when.test, when.value, 0, 1));
        }
        program.push(answer(libc::SECCOMP_RET_ERRNO | lack.errno as u32));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn jump(test: u32) -> u16 {
    code(libc::BPF_JMP | test | libc::BPF_K)
}

fn code(bits: u32) -> u16 {
    u16::try_from(bits).unwrap_or(u16::MAX)
}

fn statement(bits: u32, k: u32) -> libc::sock_filter {
    branch(code(bits), k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: PR_SET_SECCOMP with SECCOMP_MODE_FILTER reads a `sock_fprog` and the instructions
    // that it points to, which live until the call returns; the kernel writes to neither.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}
