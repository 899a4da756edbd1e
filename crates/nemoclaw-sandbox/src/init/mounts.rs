//! The private root: a tmpfs with only what the plan attaches (mount_namespaces(7)).
//!
//! Sources are opened once, without following links, compared with what was
//! resolved, and cloned as detached trees; later steps attach those. So the host
//! is not looked at again after the old root is gone.

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat2, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::plan::{Attributes, Source};

/// Where the pieces that cover masked paths are kept until the old root is gone.
const MASKS: &str = "/.nemoclaw-masks";

/// Detached mounts, waiting to be attached.
#[derive(Default)]
pub(super) struct Trees {
    slots: Vec<Option<OwnedFd>>,
    idmap: Option<OwnedFd>,
    root: Option<OwnedFd>,
    masks: bool,
}

impl Trees {
    /// Makes the user namespace whose maps translate ids on disk to the agent's.
    pub(super) fn make_idmap(&mut self, uids: (u32, u32), gids: (u32, u32)) -> io::Result<()> {
        self.idmap = Some(super::namespaces::mapping_namespace(uids, gids)?);
        Ok(())
    }

    pub(super) fn clone_tree(
        &mut self,
        slot: usize,
        source: &Source,
        idmapped: bool,
    ) -> io::Result<()> {
        let place = openat2(
            CWD,
            &source.path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        let status = fstat(&place)?;
        if (status.st_dev, status.st_ino) != (source.device, source.inode) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        let tree = clone_of(place.as_fd())?;
        let idmap = match (&self.idmap, idmapped) {
            (Some(idmap), true) => Some(idmap.as_fd()),
            (None, true) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            (_, false) => None,
        };
        // Private from the start: what is shared would be mounted on in both places.
        set_attributes(tree.as_fd(), 0, idmap, true)?;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(tree);
        Ok(())
    }

    /// Mounts the tmpfs over `/proc` for now: that directory exists on every host
    /// that could make the namespaces, and proc beneath it stays visible to the
    /// kernel's own check in `mount_proc`.
    pub(super) fn new_root(&mut self, size: u64) -> io::Result<()> {
        let mount = tmpfs(size, 0o755, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        attach(mount.as_fd(), open_directory("/proc")?.as_fd())?;
        fchdir(&mount)?;
        self.root = Some(mount);
        Ok(())
    }

    pub(super) fn mount_proc(&mut self) -> io::Result<()> {
        let root = self.root()?;
        mkdirat(root, "proc", Mode::from_raw_mode(0o755))?;
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )?;
        let place = openat2(
            root,
            "proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )?;
        attach(mount.as_fd(), place.as_fd())
    }

    /// With the new root as both arguments the old one ends up on top of it and
    /// is detached from there (pivot_root(2), "pivot_root(".", ".")").
    pub(super) fn pivot_root(&mut self) -> io::Result<()> {
        fchdir(self.root()?)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        self.root = None;
        chdir("/")?;
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        slot: usize,
        path: &str,
        attributes: Attributes,
    ) -> io::Result<()> {
        let tree = self
            .slots
            .get_mut(slot)
            .and_then(Option::take)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        set_attributes(tree.as_fd(), flags(attributes), None, false)?;
        attach(tree.as_fd(), open_inside(path)?.as_fd())
    }

    /// The cover has no permission bits and its mount is read-only, so that its
    /// owner, who may be the agent, cannot give it any.
    pub(super) fn mask(&mut self, path: &str, directory: bool) -> io::Result<()> {
        if !self.masks {
            make_directory(MASKS, 0o700)?;
            let mount = tmpfs(65536, 0o700, MountAttrFlags::empty())?;
            attach(mount.as_fd(), open_inside(MASKS)?.as_fd())?;
            make_directory(&format!("{MASKS}/directory"), 0o700)?;
            make_file(&format!("{MASKS}/file"), "")?;
            for name in ["directory", "file"] {
                let cover = open_directory_or_file(&format!("{MASKS}/{name}"))?;
                fchmod(&cover, Mode::empty())?;
            }
            self.masks = true;
        }
        let name = if directory { "directory" } else { "file" };
        let cover = clone_of(open_inside(&format!("{MASKS}/{name}"))?.as_fd())?;
        set_attributes(cover.as_fd(), flags(Attributes::SEALED), None, true)?;
        attach(cover.as_fd(), open_inside(path)?.as_fd())
    }

    fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

pub(super) fn make_directory(path: &str, mode: u32) -> io::Result<()> {
    let (parent, name) = parent_of(path)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn make_file(path: &str, content: &str) -> io::Result<()> {
    let (parent, name) = parent_of(path)?;
    let file = openat2(
        &parent,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o444),
        ResolveFlags::NO_SYMLINKS,
    );
    match file {
        Ok(file) => std::fs::File::from(file).write_all(content.as_bytes()),
        // A mount point that is there already will do; a file must be ours.
        Err(rustix::io::Errno::EXIST) if content.is_empty() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn make_symlink(path: &str, target: &str) -> io::Result<()> {
    let (parent, name) = parent_of(path)?;
    match symlinkat(target, &parent, name) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn mount_tmpfs(
    path: &str,
    mode: u32,
    size: u64,
    attributes: Attributes,
) -> io::Result<()> {
    let mount = tmpfs(size, mode, MountAttrFlags::empty())?;
    set_attributes(mount.as_fd(), flags(attributes), None, true)?;
    attach(mount.as_fd(), open_inside(path)?.as_fd())
}

pub(super) fn mount_pts() -> io::Result<()> {
    let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("ptmxmode", "0666"), ("mode", "0620")] {
        fsconfig_set_string(&context, key, value)?;
    }
    rustix::mount::fsconfig_set_flag(&context, "newinstance")?;
    fsconfig_create(&context)?;
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    attach(mount.as_fd(), open_inside("/dev/pts")?.as_fd())
}

pub(super) fn rebind(path: &str, attributes: Attributes) -> io::Result<()> {
    let place = open_inside(path)?;
    let tree = clone_of(place.as_fd())?;
    set_attributes(tree.as_fd(), flags(attributes), None, true)?;
    attach(tree.as_fd(), place.as_fd())
}

/// Only the mount itself: those beneath keep what they have.
pub(super) fn seal(path: &str) -> io::Result<()> {
    if path == "/" {
        // What covered the masked paths is cloned by now and need not be seen.
        match unmount(MASKS, UnmountFlags::DETACH) {
            Ok(()) => rustix::fs::rmdir(MASKS)?,
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let place = open_inside(path)?;
    mount_setattr(place.as_fd(), libc::MOUNT_ATTR_RDONLY, None, false, false)
}

/// Opens a path of the private root without following any link: trees that are
/// mounted there may hold what somebody planted.
pub(super) fn open_inside(path: &str) -> io::Result<OwnedFd> {
    Ok(openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?)
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn open_directory_or_file(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens the directory that holds `path`, making it and its parents.
fn parent_of(path: &str) -> io::Result<(OwnedFd, &str)> {
    let (parent, name) = path
        .rsplit_once('/')
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut made = String::new();
    for component in parent.split('/').filter(|component| !component.is_empty()) {
        made.push('/');
        made.push_str(component);
        match rustix::fs::mkdir(&made, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let parent = if parent.is_empty() { "/" } else { parent };
    Ok((open_inside(parent)?, name))
}

fn tmpfs(size: u64, mode: u32, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "nemoclaw")?;
    fsconfig_set_string(&context, "size", size.to_string())?;
    fsconfig_set_string(&context, "mode", format!("{mode:o}"))?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?)
}

fn clone_of(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(open_tree(
        place,
        c"",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )?)
}

fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_mount(
        mount,
        c"",
        place,
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

fn flags(attributes: Attributes) -> u64 {
    let mut flags = libc::MOUNT_ATTR_NOSUID;
    if attributes.read_only {
        flags |= libc::MOUNT_ATTR_RDONLY;
    }
    if attributes.no_exec {
        flags |= libc::MOUNT_ATTR_NOEXEC;
    }
    if !attributes.devices {
        flags |= libc::MOUNT_ATTR_NODEV;
    }
    flags
}

/// Sets attributes on a whole tree, and makes it private when it is new.
fn set_attributes(
    tree: BorrowedFd<'_>,
    set: u64,
    idmap: Option<BorrowedFd<'_>>,
    private: bool,
) -> io::Result<()> {
    mount_setattr(tree, set, idmap, private, true)
}

fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    idmap: Option<BorrowedFd<'_>>,
    private: bool,
    recursive: bool,
) -> io::Result<()> {
    const EMPTY: &CStr = c"";
    let mut attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: if private { libc::MS_PRIVATE } else { 0 },
        userns_fd: 0,
    };
    if let Some(idmap) = idmap {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::try_from(idmap.as_raw_fd())
            .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr(2) reads a C string and a `mount_attr` of the size
    // given; both live until the call returns. The descriptors are borrowed, so open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
