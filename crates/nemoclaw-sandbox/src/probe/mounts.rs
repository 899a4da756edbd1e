//! The steps of a private root, in a mount namespace of its own that vanishes with the process.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};

use super::namespaces::{unshare, user};
use super::{Mechanism, Outcome, Try, failed, last, process, spawn};

const CONTAINER: &str = "allow mounts to the container around us (Docker: `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`)";
const PROC: &str = "the container around us masks parts of its `/proc`, and then the kernel gives no new one (Docker: `--security-opt systempaths=unconfined`; Podman: `--security-opt unmask=ALL`)";
const TREE: &str = "boot Linux 5.12 or later; in a container allow the new mount calls";
const IDMAP: &str = "none needed for an ordinary user, whose id map does the same; for root: a file system that takes idmapped mounts (ext4, xfs and btrfs from Linux 5.12 to 5.15 on, tmpfs from 6.3)";
const OVERLAY: &str = "boot Linux 5.11 or later with overlayfs; not needed by this version";

pub(super) const TRIES: &[Try] = &[
    Try::needed(Mechanism::Mounts, "tmpfs", CONTAINER, |_| {
        stage().map(|_| "mounted".to_owned())
    }),
    Try::needed(Mechanism::Mounts, "bind read-only", TREE, bind_read_only),
    Try::needed(Mechanism::Mounts, "proc", PROC, |_| proc()),
    Try::needed(Mechanism::Mounts, "devpts", CONTAINER, |_| devpts()),
    Try::needed(Mechanism::Mounts, "pivot_root", CONTAINER, |_| pivot()),
    Try::optional(Mechanism::Mounts, "idmapped tmpfs", IDMAP, |_| {
        idmapped_tmpfs()
    }),
    Try::optional(Mechanism::Mounts, "idmapped workdir", IDMAP, idmapped),
    Try::optional(Mechanism::Mounts, "overlay", OVERLAY, |_| overlay()),
];

/// Where the tries mount: any directory that is there on every host; hidden inside by what is mounted on it.
const STAGE: &str = "/tmp";

/// A user and a mount namespace, with an empty tmpfs at the stage.
fn stage() -> Result<&'static Path, String> {
    user()?;
    unshare(libc::CLONE_NEWNS, "unshare a mount namespace")?;
    own_tmpfs()
}

fn own_tmpfs() -> Result<&'static Path, String> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failed("make mounts private"))?;
    mount(
        "nemoclaw",
        STAGE,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    )
    .map_err(failed("mount tmpfs"))?;
    Ok(Path::new(STAGE))
}

fn directory(path: &Path) -> Result<(), String> {
    fs::create_dir(path).map_err(failed("make a directory"))
}

/// The launch's own way to bind: a detached copy, its attributes set over all of it, then moved into place.
fn bind_read_only(source: &Path) -> Outcome {
    // Opened first: the stage may hide it.
    let (source, stage) = (
        fs::canonicalize(source).map_err(failed("find the directory"))?,
        Path::new(STAGE),
    );
    user()?;
    unshare(libc::CLONE_NEWNS, "unshare a mount namespace")?;
    let tree = open_tree(
        CWD,
        &source,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .map_err(failed("open_tree"))?;
    own_tmpfs()?;
    set_attributes(
        &tree,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        None,
        true,
    )?;
    let target = stage.join("bound");
    directory(&target)?;
    move_mount(
        tree.as_fd(),
        "",
        CWD,
        &target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(failed("move_mount"))?;
    match fs::create_dir(target.join(".nemoclaw-try")) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
            Ok("a write was refused".to_owned())
        }
        Err(error) => Err(format!(
            "write to the bind: {error}, not a read-only file system"
        )),
        Ok(()) => {
            let _ = fs::remove_dir(target.join(".nemoclaw-try"));
            Err("write to the bind: it was not refused".to_owned())
        }
    }
}

fn proc() -> Outcome {
    user()?;
    unshare(
        libc::CLONE_NEWNS | libc::CLONE_NEWPID,
        "unshare mount and pid namespaces",
    )?;
    process::wait_for(spawn(|| {
        let target = own_tmpfs()?.join("proc");
        directory(&target)?;
        mount(
            "proc",
            &target,
            "proc",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            None,
        )
        .map_err(failed("mount proc"))?;
        match fs::read_link(target.join("self")) {
            Ok(own) if own == Path::new("1") => Ok("mounted, shows its own processes".to_owned()),
            Ok(other) => Err(format!(
                "mount proc: it shows process `{}` where 1 was meant",
                other.display()
            )),
            Err(error) => Err(failed("read the new proc")(error)),
        }
    })?)
}

fn devpts() -> Outcome {
    let target = stage()?.join("pts");
    directory(&target)?;
    mount(
        "devpts",
        &target,
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .map_err(failed("mount devpts"))?;
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(target.join("ptmx"))
        .map_err(failed("open a terminal"))?;
    Ok("a terminal was opened".to_owned())
}

fn pivot() -> Outcome {
    let root = stage()?;
    let old = root.join("old");
    directory(&old)?;
    rustix::process::pivot_root(root, &old).map_err(failed("pivot_root"))?;
    rustix::process::chdir("/").map_err(failed("chdir"))?;
    unmount("/old", UnmountFlags::DETACH).map_err(failed("unmount the old root"))?;
    if Path::new("/old/proc").exists() {
        return Err("pivot_root: the old root is still there".to_owned());
    }
    Ok("the old root is gone".to_owned())
}

fn overlay() -> Outcome {
    let root = stage()?;
    for name in ["lower", "upper", "work", "merged"] {
        directory(&root.join(name))?;
    }
    let options = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
    mount(
        "overlay",
        root.join("merged"),
        "overlay",
        MountFlags::NOSUID,
        options,
    )
    .map_err(failed("mount overlay"))?;
    fs::write(root.join("merged/new"), "").map_err(failed("write through it"))?;
    if root.join("upper/new").exists() {
        Ok("mounted".to_owned())
    } else {
        Err("the write went astray".to_owned())
    }
}

fn idmapped_tmpfs() -> Outcome {
    unshare(libc::CLONE_NEWNS, "unshare a mount namespace")?;
    idmapped(own_tmpfs()?)
}

/// Maps our id to another by a mount and looks whether the files say so.
fn idmapped(source: &Path) -> Outcome {
    let id = fs::metadata(source)
        .map_err(failed("look at the directory"))?
        .uid();
    let tree = open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(failed("open_tree"))?;
    let mapped = id.checked_add(1).ok_or("the owner's id has no neighbour")?;
    let namespace = foreign_namespace(id, mapped)?;
    set_attributes(&tree, libc::MOUNT_ATTR_IDMAP, Some(&namespace), false)?;
    let seen = rustix::fs::fstat(&tree)
        .map_err(failed("look through the map"))?
        .st_uid;
    if seen == mapped {
        Ok(format!("{id} is seen as {seen}"))
    } else {
        Err(format!("{id} is seen as {seen}, not {mapped}"))
    }
}

/// The user namespace of a process that maps `inside` to `outside`.
fn foreign_namespace(inside: u32, outside: u32) -> Result<OwnedFd, String> {
    let (gate, open) = rustix::pipe::pipe().map_err(failed("pipe"))?;
    let (child, pipe) = spawn(|| {
        unshare(libc::CLONE_NEWUSER, "unshare a user namespace")?;
        // The parent waits for this byte before it writes the maps.
        rustix::io::write(&open, b"x").map_err(failed("write"))?;
        std::thread::sleep(super::PATIENCE);
        Ok(String::new())
    })?;
    let got = (|| {
        // Bounded: the child's end closes with it, and it lives for seconds only.
        drop(open);
        let mut byte = [0];
        if rustix::io::read(&gate, &mut byte).map_err(failed("read"))? != 1 {
            return Err("unshare a user namespace: refused".to_owned());
        }
        let process = format!("/proc/{}", child.as_raw_nonzero());
        fs::write(
            format!("{process}/uid_map"),
            format!("{inside} {outside} 1"),
        )
        .map_err(failed("write uid_map"))?;
        fs::write(
            format!("{process}/gid_map"),
            format!("{inside} {outside} 1"),
        )
        .map_err(failed("write gid_map"))?;
        fs::File::open(format!("{process}/ns/user"))
            .map(OwnedFd::from)
            .map_err(failed("open the user namespace"))
    })();
    drop(pipe);
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
    got
}

/// `mount_setattr(2)`, which neither rustix nor nix has.
fn set_attributes(
    tree: &OwnedFd,
    set: u64,
    namespace: Option<&OwnedFd>,
    recursive: bool,
) -> Result<(), String> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace
            .and_then(|one| u64::try_from(one.as_raw_fd()).ok())
            .unwrap_or(0),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: both descriptors are open for the call, the path is an empty C string and the kernel reads `mount_attr`
    // by the size given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last("mount_setattr"))
    }
}
