use super::*;

/// A host made of files: trees in `sys`, our process in `proc`.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new(mounts: &[(&str, &str, &str)], memberships: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("proc/self/ns")).unwrap();
        std::os::unix::fs::symlink("pid:[4026531836]", root.join("proc/self/ns/pid")).unwrap();
        fs::write(
            root.join("proc/self/stat"),
            "77 (a b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1\n",
        )
        .unwrap();
        fs::write(root.join("proc/self/cgroup"), memberships).unwrap();
        let mut text = String::from("27 1 254:0 / / rw - ext4 /dev/vda rw\n");
        for (index, (kind, at, options)) in mounts.iter().enumerate() {
            let point = root.join(at);
            fs::create_dir_all(&point).unwrap();
            text.push_str(&format!(
                "{} 27 0:{index} / {} rw - {kind} {kind} rw,{options}\n",
                30 + index,
                point.display()
            ));
        }
        fs::write(root.join("proc/self/mountinfo"), text).unwrap();
        Self { directory }
    }

    fn unified(&self, path: &str, controllers: &str, enabled: &str, processes: &str) -> PathBuf {
        let path = self.directory.path().join("sys").join(path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        fs::write(path.join("cgroup.subtree_control"), enabled).unwrap();
        fs::write(path.join("cgroup.procs"), processes).unwrap();
        if path != self.directory.path().join("sys") {
            fs::write(path.join("cgroup.type"), "domain\n").unwrap();
        }
        path
    }

    fn detect(&self) -> Layout {
        Layout::detect(&self.directory.path().join("proc"))
    }
}

const ALL: &str = "cpu io memory pids\n";

#[test]
fn a_delegated_scope_of_our_own_is_used_with_a_leaf() {
    let host = Host::new(&[("cgroup2", "sys", "")], "0::/user.slice/mine.scope\n");
    host.unified("", ALL, ALL, "1\n2\n");
    host.unified("user.slice", ALL, "memory pids\n", "");
    let own = host.unified("user.slice/mine.scope", ALL, "", "77\n");
    let layout = host.detect();
    assert_eq!(layout.kind, Kind::V2);
    assert_eq!(
        layout.owner,
        Owner {
            pid: 77,
            start: 4242,
            pid_namespace: 4026531836
        }
    );
    let controllers = ["cpu", "io", "memory", "pids"].map(str::to_owned).to_vec();
    assert_eq!(
        layout.unified.unwrap().place,
        Some(Place {
            path: own,
            controllers,
            withheld: Vec::new(),
            leaf: true
        })
    );
}

#[test]
fn a_scope_with_other_processes_is_left_for_the_cgroup_above() {
    let host = Host::new(&[("cgroup2", "sys", "")], "0::/app.slice/terminal.scope\n");
    host.unified("", ALL, "", "1\n");
    let above = host.unified("app.slice", "memory pids\n", "memory pids\n", "");
    host.unified("app.slice/terminal.scope", "memory pids\n", "", "5\n77\n");
    // The root of the tree would offer all four, but not to someone who may not write there.
    fs::remove_file(host.directory.path().join("sys/cgroup.procs")).unwrap();
    let layout = host.detect();
    let place = layout.unified.as_ref().unwrap().place.clone().unwrap();
    assert_eq!((place.path, place.leaf), (above, false));
    assert_eq!(place.controllers, ["memory", "pids"]);
    assert_eq!(layout.lack(Limit::Memory), None);
    let lack = layout.lack(Limit::Cpu).unwrap();
    assert!(lack.why.contains("`cpu` is not offered"), "{}", lack.why);
}

#[test]
fn processes_of_others_withhold_the_controllers_and_the_reason_is_told() {
    let host = Host::new(&[("cgroup2", "sys", "")], "0::/\n");
    let own = host.unified("", ALL, "", "1\n77\n");
    // A container sees its own part of the tree as the root, but that part has a type and is bound by the rule.
    fs::write(own.join("cgroup.type"), "domain\n").unwrap();
    let layout = host.detect();
    let place = layout.unified.as_ref().unwrap().place.as_ref().unwrap();
    assert_eq!(place.controllers, Vec::<String>::new());
    let lack = layout.lack(Limit::Pids).unwrap();
    assert!(lack.why.contains("holds 1 other processes"), "{}", lack.why);
    assert!(!lack.remedy.is_empty());
}

#[test]
fn after_a_first_launch_our_leaf_is_not_taken_for_the_place() {
    let leaf = "nemoclaw-supervisor.77.4242.4026531836";
    let host = Host::new(
        &[("cgroup2", "sys", "")],
        &format!("0::/mine.scope/{leaf}\n"),
    );
    host.unified("", ALL, ALL, "");
    let own = host.unified("mine.scope", ALL, ALL, "");
    host.unified(&format!("mine.scope/{leaf}"), ALL, "", "77\n");
    let place = host.detect().unified.unwrap().place.unwrap();
    assert_eq!((place.path, place.leaf), (own, false));
}

#[test]
fn the_hybrid_layout_takes_each_controller_from_its_own_tree() {
    let host = Host::new(
        &[
            ("cgroup", "v1/cpu,cpuacct", "cpu,cpuacct"),
            ("cgroup", "v1/memory", "memory"),
            ("cgroup", "v1/systemd", "name=systemd"),
            ("cgroup2", "sys", ""),
        ],
        "4:memory:/job\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n",
    );
    host.unified("", "", "", "1\n77\n");
    let root = host.directory.path();
    let layout = host.detect();
    assert_eq!(layout.kind, Kind::Hybrid);
    assert_eq!(layout.legacy[0].controllers, ["cpu", "cpuacct"]);
    assert_eq!(layout.legacy[0].refusal, None);
    assert_eq!(layout.legacy[1].own, root.join("v1/memory/job"));
    // `/job` was not made: so no child can be.
    assert!(
        layout
            .lack(Limit::Memory)
            .unwrap()
            .why
            .contains("v1/memory/job")
    );
    assert_eq!(layout.lack(Limit::Cpu), None);
    assert!(
        layout
            .lack(Limit::Pids)
            .unwrap()
            .why
            .contains("`pids` is not offered")
    );
    assert_eq!(layout.lack(Limit::Group), None);
}

#[test]
fn a_host_without_trees_lacks_every_limit() {
    let host = Host::new(&[], "");
    let layout = host.detect();
    assert_eq!(layout.kind, Kind::None);
    for limit in [
        Limit::Memory,
        Limit::Swap,
        Limit::Cpu,
        Limit::Pids,
        Limit::Io,
        Limit::Group,
    ] {
        assert!(
            layout.lack(limit).unwrap().remedy.contains("mount"),
            "{limit}"
        );
    }
}

#[test]
fn a_cgroup_outside_of_the_mounted_part_is_refused() {
    let mount = |root: &str| Mount {
        root: root.to_owned(),
        point: "/m".into(),
        unified: true,
        options: Vec::new(),
    };
    let own = |memberships: &str, root: &str| own(memberships, &mount(root), str::is_empty);
    assert_eq!(own("0::/a/b\n", "/a"), Ok(PathBuf::from("/m/b")));
    assert_eq!(own("0::/a\n", "/a"), Ok(PathBuf::from("/m")));
    assert!(own("0::/../other\n", "/").unwrap_err().contains("outside"));
    assert!(own("0::/c\n", "/a").unwrap_err().contains("outside"));
    assert!(own("2:cpu:/\n", "/").unwrap_err().contains("in no cgroup"));
}

#[test]
fn a_mount_point_with_a_space_is_read() {
    let mount =
        Mount::parse("31 23 0:28 / /a\\040b rw shared:1 - cgroup cgroup rw,cpu,cpuacct").unwrap();
    assert_eq!(mount.point, PathBuf::from("/a b"));
    assert_eq!(mount.options, ["rw", "cpu", "cpuacct"]);
    assert_eq!(Mount::parse("27 1 254:0 / / rw - ext4 /dev/vda rw"), None);
}
