//! Plans for hosts that are described, not had: no privilege, no kernel and no file is needed.

use nemoclaw_policy::{Bindings, Policy, Program as PolicyProgram, Tail, Verdict};
use nemoclaw_sandbox::plan::{FileRights, Identity, Source, Step};

use super::identity::FIRST_AGENT_ID;
use super::*;
use crate::facts::fixture;
use crate::places::{Located, Place, executions};

const WORK: &str = "/home/alice/work";

/// Files of the host that is described; every directory above one is there too.
#[derive(Clone)]
struct Host {
    facts: HostFacts,
    files: Vec<(&'static str, Kind)>,
    /// Symbolic links: path and where it leads in the end.
    links: Vec<(&'static str, &'static str)>,
    hidden: Vec<&'static str>,
}

impl Host {
    fn of(facts: HostFacts) -> Self {
        Self {
            facts,
            files: vec![
                ("/usr", Kind::Directory),
                ("/usr/bin/sh", Kind::File),
                ("/usr/bin/curl", Kind::File),
                ("/usr/lib/ld.so", Kind::File),
                ("/dev/null", Kind::Device),
                ("/proc/sys", Kind::Directory),
                ("/proc/kcore", Kind::File),
                (WORK, Kind::Directory),
            ],
            links: vec![("/bin", "/usr/bin")],
            hidden: Vec::new(),
        }
    }

    fn with(mut self, path: &'static str, kind: Kind) -> Self {
        self.files.push((path, kind));
        self
    }

    fn place(&self, named: &str) -> Option<Place> {
        let link = self.links.iter().find(|(link, _)| is_within(named, link));
        let path = match link {
            Some((link, target)) => format!("{target}{}", &named[link.len()..]),
            None => named.to_owned(),
        };
        let is_above = |file: &str| is_within(file, &path);
        let exact = self.files.iter().position(|(file, _)| *file == path);
        let index = exact.or_else(|| self.files.iter().position(|(file, _)| is_above(file)))?;
        Some(Place {
            named: named.to_owned(),
            kind: exact.map_or(Kind::Directory, |index| self.files[index].1),
            source: Source {
                path,
                device: 1,
                inode: index as u64 + 100,
            },
            links: link
                .map(|(link, _)| (*link).to_owned())
                .into_iter()
                .collect(),
        })
    }

    /// What `places::locate` would find, as far as these tests go.
    fn places(&self, policy: &BoundPolicy) -> Places {
        let compiled = policy.compile();
        let locate = |rules: &[nemoclaw_policy::PathRule]| -> Vec<Located> {
            rules
                .iter()
                .map(|rule| {
                    let found: Vec<Place> = match rule.pattern.tail {
                        _ if rule.private => Vec::new(),
                        Tail::This | Tail::Beneath => self
                            .place(rule.pattern.anchor.as_str())
                            .into_iter()
                            .collect(),
                        Tail::Glob | Tail::Name => self
                            .files
                            .iter()
                            .filter(|(file, _)| rule.pattern.covers(file))
                            .filter_map(|(file, _)| self.place(file))
                            .collect(),
                    };
                    Located {
                        rule: rule.clone(),
                        open_ended: matches!(rule.pattern.tail, Tail::Glob | Tail::Name)
                            || found.is_empty(),
                        places: found,
                    }
                })
                .collect()
        };
        let executable = |path: &str| {
            self.place(path).map(|place| Executable {
                place,
                interpreter: None,
            })
        };
        let mut places = Places {
            grants: locate(&compiled.grants),
            denials: locate(
                &[
                    compiled.denials.clone(),
                    executions(&compiled, Verdict::Deny),
                ]
                .concat(),
            ),
            holds: locate(&compiled.holds),
            loaders: self.place("/usr/lib/ld.so").into_iter().collect(),
            proc: ["/proc/kcore", "/proc/sys"]
                .iter()
                .filter_map(|path| self.place(path))
                .collect(),
            devices: self.place("/dev/null").into_iter().collect(),
            hidden: self
                .hidden
                .iter()
                .filter_map(|path| self.place(path))
                .collect(),
            working_directory: self.place(policy.workdir.as_str()),
            ..Places::default()
        };
        for rule in &compiled.programs {
            if let PolicyProgram::Name(name) = &rule.program {
                let found = executable(&format!("/usr/bin/{name}"));
                places
                    .programs
                    .insert(name.clone(), found.into_iter().collect());
            }
        }
        places
    }

    fn plan(&self, policy: &BoundPolicy) -> Result<Planned, PlanError> {
        self.plan_of(policy, &["sh", "-c", "true"], "/usr/bin/sh")
    }

    fn plan_of(
        &self,
        policy: &BoundPolicy,
        words: &[&str],
        program: &str,
    ) -> Result<Planned, PlanError> {
        let arguments: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let program = self.place(program).map(|place| Executable {
            place,
            interpreter: None,
        });
        plan(&Request {
            policy,
            facts: &self.facts,
            places: &self.places(policy),
            arguments: &arguments,
            program: program.as_ref(),
            terminal: [false; 3],
            terminal_size: (24, 80),
            passed: &[("LANG".to_owned(), "C.UTF-8".to_owned())],
            supervisor: 4711,
            run: "tester-0123",
        })
    }
}

fn policy(more: &str) -> BoundPolicy {
    policy_at(more, WORK)
}

fn policy_at(more: &str, workdir: &str) -> BoundPolicy {
    let text = format!(
        "agent_policy:\n  name: tester\n  allowed_actions:\n    \
         - read_files: [\"${{workdir}}/*\"]\n    - write_files: [\"${{workdir}}/*\"]\n    \
         - delete_files: [\"${{workdir}}/*\"]\n    - execute_code: [sh]\n{more}"
    );
    let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    policy
        .bind(&Bindings {
            home: "/home/alice",
            workdir,
        })
        .unwrap()
}

fn steps(planned: &Planned) -> Vec<String> {
    planned
        .launch
        .steps
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn position(planned: &Planned, wanted: impl Fn(&Step) -> bool) -> usize {
    planned
        .launch
        .steps
        .iter()
        .position(wanted)
        .expect("the step is in the plan")
}

#[test]
fn the_plan_for_an_ordinary_user_is_this_one() {
    let host = Host::of(fixture::ordinary_user()).with("/home/alice/work/.env", Kind::File);
    let policy = policy("  denied_actions:\n    - read_files: [\".env\"]\n");
    let planned = host.plan(&policy).unwrap();
    insta::assert_snapshot!(format!("{}\n{}", planned.report, planned.launch), @"
    namespaces   fully   user, mount, pid, net, ipc, uts, cgroup, time
    mounts       fully   private root, 2 host trees, 1 paths covered
    identity     fully   the agent is user 1000 with no capability; its files are that user's
    landlock     fully   ABI 6, 5 paths, signals and abstract sockets scoped
    seccomp      fully   profile `agent`: 272 calls allowed, 21 by argument, the rest refused and recorded
    cgroups      fully   no limit
    bpf_hooks    NOT     not supported yet by this version; mounts and Landlock hold what exists at the start
                         lacks: `.env` is denied where it exists now, not where it appears later
                         remedy: none in this version: mounts protect what exists at the start
    note: stricter than the policy: `/home/alice/work/.env` also loses write and delete, which mounts cannot separate from what is denied

    agent `tester`
    user 1000:1000 inside is 1000:1000 outside
       1. die when the supervisor dies
       2. enter new namespaces (user, mount, pid, net, ipc, uts, cgroup, time)
       3. start the clocks at zero
       4. map the user and group ids
       5. become the mapped user
       6. open `/usr`
       7. open `/home/alice/work`
       8. open `/dev/null`
       9. become process 1
      10. set the host name `tester`
      11. bring the loopback interface up
      12. make a private root
      13. mount proc
      14. enter the private root
      15. make directory `/dev/pts`
      16. make directory `/dev/shm`
      17. make directory `/tmp`
      18. mount a private `/tmp` of 1073741824 bytes writable,nosuid,nodev,noexec
      19. make directory `/tmp/home`
      20. mount a private `/dev/shm` of 268435456 bytes writable,nosuid,nodev,noexec
      21. mount a private `/dev/pts`
      22. make mount point `/dev/null`
      23. mount `/dev/null` writable,nosuid,noexec
      24. link `/dev/ptmx` to `pts/ptmx`
      25. link `/dev/fd` to `/proc/self/fd`
      26. link `/dev/stdin` to `/proc/self/fd/0`
      27. link `/dev/stdout` to `/proc/self/fd/1`
      28. link `/dev/stderr` to `/proc/self/fd/2`
      29. make directory `/usr`
      30. mount `/usr` read-only,nosuid,nodev
      31. make directory `/home/alice/work`
      32. mount `/home/alice/work` writable,nosuid,nodev,noexec
      33. link `/bin` to `/usr/bin`
      34. write `/etc/passwd`
      35. write `/etc/group`
      36. write `/etc/hosts`
      37. write `/etc/hostname`
      38. write `/etc/resolv.conf`
      39. write `/etc/nsswitch.conf`
      40. mask `/home/alice/work/.env`
      41. mask `/proc/kcore`
      42. remount `/proc/sys` read-only,nosuid,nodev,noexec
      43. seal `/` read-only
      44. limit core dumps to 0 bytes
      45. limit open files to 4096
      46. limit locked memory to 8388608 bytes
      47. drop all capabilities
      48. forbid new privileges
      49. restrict files with Landlock ABI 6 (21 rules)
            /dev/full write_file,read_file,truncate,ioctl_dev
            /dev/null write_file,read_file,truncate,ioctl_dev
            /dev/pts write_file,read_file,read_dir,make_dir,make_reg,make_sock,make_fifo,make_sym,refer,truncate,ioctl_dev
            /dev/random write_file,read_file,truncate,ioctl_dev
            /dev/shm write_file,read_file,read_dir,remove_dir,remove_file,make_dir,make_reg,make_sock,make_fifo,make_sym,refer,truncate
            /dev/tty write_file,read_file,truncate,ioctl_dev
            /dev/urandom write_file,read_file,truncate,ioctl_dev
            /dev/zero write_file,read_file,truncate,ioctl_dev
            /etc/group read_file
            /etc/hostname read_file
            /etc/hosts read_file
            /etc/nsswitch.conf read_file
            /etc/passwd read_file
            /etc/resolv.conf read_file
            /home/alice/work write_file,read_file,read_dir,remove_dir,remove_file,make_dir,make_reg,make_sock,make_fifo,make_sym,refer,truncate
            /proc read_file,read_dir
            /tmp write_file,read_file,read_dir,remove_dir,remove_file,make_dir,make_reg,make_sock,make_fifo,make_sym,refer,truncate
            /usr read_file,read_dir
            /usr/bin read_file,read_dir
            /usr/bin/sh execute
            /usr/lib/ld.so execute
      50. restrict system calls to profile `agent` (272 allowed, 21 by argument)
      51. execute `/usr/bin/sh`
    ");
}

#[test]
fn a_plan_survives_its_way_to_the_program_that_carries_it_out() {
    for facts in [fixture::ordinary_user(), fixture::root()] {
        let planned = Host::of(facts).plan(&policy("")).unwrap();
        let text = serde_json::to_string(&planned.launch).unwrap();
        assert_eq!(
            serde_json::from_str::<LaunchPlan>(&text).unwrap(),
            planned.launch
        );
    }
}

#[test]
fn started_by_root_the_agent_is_nobody_and_its_files_are_mapped() {
    let planned = Host::of(fixture::root()).plan(&policy("")).unwrap();
    let identity = planned.launch.identity;
    assert_eq!(
        identity,
        Identity {
            inside_uid: 1000,
            inside_gid: 1000,
            outside_uid: FIRST_AGENT_ID + 4711,
            outside_gid: FIRST_AGENT_ID + 4711,
            drop_groups: true,
        }
    );
    let mapped: Vec<&str> = planned
        .launch
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::CloneTree {
                source,
                idmapped: true,
                ..
            } => Some(source.path.as_str()),
            _ => None,
        })
        .collect();
    // The system's own files keep their owners, so that its permissions go on to hold.
    assert_eq!(mapped, [WORK]);
    // Privilege over the file systems is needed for it, and gone after the namespaces.
    let clone = position(&planned, |step| matches!(step, Step::CloneTree { .. }));
    assert!(clone < position(&planned, |step| matches!(step, Step::Unshare { .. })));
}

#[test]
fn root_on_a_file_system_that_cannot_map_ids_is_told_what_to_do() {
    let mut host = Host::of(fixture::root());
    host.facts.mounts[0].kind = "nfs4".to_owned();
    let error = host.plan(&policy("")).unwrap_err();
    insta::assert_snapshot!(error, @"started by root, the agent gets an id of its own and needs mounts that map ids, which `/home/alice/work` on this file system cannot have; start nemoclaw with sudo from an ordinary account, or as that account");
    // Behind sudo the agent is the person themself.
    host.facts.person = fixture::ordinary_user().person;
    let planned = host.plan(&policy("")).unwrap();
    assert_eq!(planned.launch.identity.outside_uid, 1000);
    assert!(planned.launch.identity.drop_groups);
}

/// Takes one mechanism from a host.
fn lacking(mechanism: &str) -> (HostFacts, &'static str) {
    let mut facts = fixture::ordinary_user();
    let mut more = "";
    match mechanism {
        "namespaces" => facts.namespaces.retain(|kind| kind != "ipc"),
        "landlock" => facts.landlock_abi = 0,
        "seccomp" => facts.seccomp.filter = false,
        "cgroups" => more = "  resources: {memory: 64MiB}\n",
        "bpf_hooks" => {}
        other => panic!("{other}"),
    }
    (facts, more)
}

#[test]
fn what_is_required_and_missing_stops_the_launch_and_is_named() {
    let mut told = Vec::new();
    for mechanism in ["namespaces", "landlock", "seccomp", "cgroups", "bpf_hooks"] {
        let (facts, more) = lacking(mechanism);
        let policy = policy(&format!("{more}  enforcement: {{{mechanism}: required}}\n"));
        let error = Host::of(facts).plan(&policy).unwrap_err();
        assert!(
            matches!(error, PlanError::Required(_)),
            "{mechanism}: {error}"
        );
        assert_eq!(error.exit_status(), 125);
        told.push(error.to_string());
    }
    insta::assert_snapshot!(told.join("\n\n"), @"
    the policy requires `namespaces`, which this host does not give in full
      this kernel has no ipc namespaces
        remedy: use a kernel built with them (CONFIG_NAMESPACES)
      to start without it, write `enforcement: {namespaces: best_effort}` in the policy

    the policy requires `landlock`, which this host does not give in full
      this kernel offers no Landlock, not ABI 1: files are held by mounts alone
        remedy: use Linux 6.2 or newer with `landlock` among the security modules (`lsm=`)
      to start without it, write `enforcement: {landlock: best_effort}` in the policy

    the policy requires `seccomp`, which this host does not give in full
      this kernel does not take system-call filters
        remedy: use Linux 5.0 or newer built with CONFIG_SECCOMP_FILTER; inside a container, allow the seccomp call
      to start without it, write `enforcement: {seccomp: best_effort}` in the policy

    the policy requires `cgroups`, which this host does not give in full
      memory: no cgroup tree with this controller is mounted
        remedy: mount the v2 tree: `mount -t cgroup2 none /sys/fs/cgroup` (in a container: start it with its own cgroup namespace and a writable tree)
      to start without it, write `enforcement: {cgroups: best_effort}` in the policy

    the policy requires `bpf_hooks`, which this host does not give in full
      kernel hooks are not supported yet by this version
        remedy: leave `bpf_hooks` at `best_effort`
      to start without it, write `enforcement: {bpf_hooks: best_effort}` in the policy
    ");
}

#[test]
fn without_the_namespaces_that_make_a_sandbox_best_effort_is_not_enough() {
    for kind in ["user", "mnt", "pid", "net"] {
        let mut facts = fixture::ordinary_user();
        facts.namespaces.retain(|had| had != kind);
        let policy = policy("  enforcement: {default: best_effort}\n");
        let error = Host::of(facts).plan(&policy).unwrap_err();
        assert!(matches!(error, PlanError::NoSandbox(_)), "{kind}: {error}");
    }
}

#[test]
fn what_is_wished_for_and_missing_is_reported_and_the_rest_planned() {
    for mechanism in ["namespaces", "landlock", "seccomp", "cgroups", "bpf_hooks"] {
        let (facts, more) = lacking(mechanism);
        let policy = policy(&format!(
            "{more}  enforcement: {{{mechanism}: best_effort}}\n"
        ));
        let planned = Host::of(facts).plan(&policy).unwrap();
        let finding = planned
            .report
            .findings
            .iter()
            .find(|finding| finding.mechanism == mechanism);
        let finding = finding.expect("each mechanism is reported");
        assert_ne!(finding.extent, Extent::Fully, "{mechanism}");
        if mechanism != "bpf_hooks" {
            assert!(!finding.lacks.is_empty(), "{mechanism}");
        }
        for lack in &finding.lacks {
            assert!(!lack.remedy.is_empty(), "{lack:?}");
        }
        assert!(matches!(
            planned.launch.steps.last(),
            Some(Step::Execute(_))
        ));
    }
}

#[test]
fn the_kernels_highest_landlock_abi_is_used_and_no_right_beyond_it() {
    for abi in 1..=9 {
        let mut facts = fixture::ordinary_user();
        facts.landlock_abi = abi;
        let policy = policy("  enforcement: {landlock: best_effort}\n");
        let planned = Host::of(facts).plan(&policy).unwrap();
        let rules = planned.launch.steps.iter().find_map(|step| match step {
            Step::Landlock(rules) => Some(rules),
            _ => None,
        });
        let rules = rules.expect("Landlock is planned");
        assert_eq!((rules.abi, rules.handled), (abi, FileRights::of_abi(abi)));
        assert_eq!((rules.scoped, rules.log_denials), (abi >= 6, abi >= 7));
        for rule in &rules.rules {
            assert_eq!(rule.rights & rules.handled, rule.rights, "{}", rule.path);
        }
    }
}

#[test]
fn what_is_denied_inside_what_is_allowed_is_covered_and_its_parents_are_pinned() {
    let host = Host::of(fixture::ordinary_user())
        .with("/home/alice/work/a/b/secret", Kind::File)
        .with("/home/alice/work/vendor", Kind::Directory);
    let policy = policy(
        "  denied_actions:\n    - read_files: [\"${workdir}/a/b/secret\"]\n    \
         - write_files: [\"${workdir}/vendor/*\"]\n    - delete_files: [\"${workdir}/vendor/*\"]\n",
    );
    let steps = steps(&host.plan(&policy).unwrap());
    for wanted in [
        "mask `/home/alice/work/a/b/secret`",
        "remount `/home/alice/work/vendor` read-only,nosuid,nodev",
        "pin `/home/alice/work/a`",
        "pin `/home/alice/work/a/b`",
    ] {
        assert!(
            steps.iter().any(|step| step == wanted),
            "{wanted}: {steps:#?}"
        );
    }
}

#[test]
fn what_needs_approval_is_refused_for_now_and_that_is_said() {
    let host = Host::of(fixture::ordinary_user()).with("/home/alice/work/live", Kind::Directory);
    let policy = policy(
        "  approval_required:\n    - write_files: [\"${workdir}/live/*\"]\n    - deploy_code: true\n",
    );
    let planned = host.plan(&policy).unwrap();
    assert!(
        steps(&planned)
            .iter()
            .any(|step| step.starts_with("remount `/home/alice/work/live` read-only"))
    );
    assert!(
        planned
            .report
            .notes
            .iter()
            .any(|note| note.contains("approval_required"))
    );
}

#[test]
fn a_link_in_a_place_that_the_agent_may_write_decides_nothing() {
    let mut host = Host::of(fixture::ordinary_user()).with("/etc/shadow", Kind::File);
    host.links
        .push(("/home/alice/work/innocent", "/etc/shadow"));
    let policy = policy("").policy().clone();
    let text = format!("{}/innocent", WORK);
    let mut with_link = policy;
    let more = Policy::parse(&format!(
        "name: tester\nallowed_actions:\n  - read_files: [\"{text}\", \"{WORK}/*\"]\n  \
         - write_files: [\"{WORK}/*\"]\n  - execute_code: [sh]\n"
    ))
    .unwrap();
    with_link.rules = more.rules;
    let bound = with_link
        .bind(&Bindings {
            home: "/home/alice",
            workdir: WORK,
        })
        .unwrap();
    let error = host.plan(&bound).unwrap_err();
    assert!(matches!(error, PlanError::PlantedLink { .. }), "{error}");
}

#[test]
fn an_audit_log_behind_a_planted_link_is_refused() {
    let mut host = Host::of(fixture::ordinary_user()).with("/etc/cron.d", Kind::Directory);
    host.links.push(("/home/alice/work/log", "/etc/cron.d"));
    host.hidden.push("/home/alice/work/log");
    let error = host.plan(&policy("")).unwrap_err();
    assert!(matches!(error, PlanError::PlantedLink { .. }), "{error}");
}

#[test]
fn root_of_a_rootless_container_is_told_what_to_do() {
    let mut host = Host::of(fixture::root());
    host.facts.initial_user_namespace = false;
    let error = host.plan(&policy("")).unwrap_err();
    assert!(matches!(error, PlanError::RootOfNamespace), "{error}");
    assert_eq!(error.exit_status(), 125);
}

#[test]
fn a_working_directory_within_the_audit_logs_is_refused() {
    let mut host = Host::of(fixture::ordinary_user());
    host.hidden.push("/home/alice");
    let error = host.plan(&policy("")).unwrap_err();
    assert!(matches!(error, PlanError::AuditInReach(_)), "{error}");
}

#[test]
fn an_audit_log_within_the_workspace_is_covered() {
    let mut host = Host::of(fixture::ordinary_user()).with("/home/alice/work/log", Kind::Directory);
    host.hidden.push("/home/alice/work/log");
    let planned = host.plan(&policy("")).unwrap();
    assert!(
        steps(&planned)
            .iter()
            .any(|step| step == "mask `/home/alice/work/log`")
    );
}

#[test]
fn a_program_that_is_not_allowed_is_126_and_one_that_is_not_there_127() {
    let host = Host::of(fixture::ordinary_user());
    let policy = policy("");
    let refused = host
        .plan_of(&policy, &["curl"], "/usr/bin/curl")
        .unwrap_err();
    assert_eq!(refused.exit_status(), 126);
    insta::assert_snapshot!(refused, @r#"the policy does not allow `curl` to be executed; add it to `allowed_actions`: `- execute_code: ["curl"]`"#);
    let missing = host
        .plan_of(&policy, &["nothing"], "/opt/nothing")
        .unwrap_err();
    assert_eq!(missing.exit_status(), 127);
}

#[test]
fn only_named_programs_may_be_executed_and_a_denial_beats_a_name() {
    let host = Host::of(fixture::ordinary_user());
    let executable = |planned: &Planned| -> Vec<String> {
        let rules = planned.launch.steps.iter().find_map(|step| match step {
            Step::Landlock(rules) => Some(&rules.rules),
            _ => None,
        });
        let rules = rules.expect("Landlock is planned").iter();
        rules
            .filter(|rule| !(rule.rights & FileRights::EXECUTE).is_empty())
            .map(|rule| rule.path.clone())
            .collect()
    };
    let planned = host.plan(&policy("")).unwrap();
    assert_eq!(executable(&planned), ["/usr/bin/sh", "/usr/lib/ld.so"]);
    let denied = policy("  denied_actions:\n    - execute_code: [\"/usr/bin/sh\"]\n");
    let error = host.plan(&denied).unwrap_err();
    assert_eq!(error.exit_status(), 126, "{error}");
}

#[test]
fn the_environment_holds_what_the_sandbox_gives_and_what_the_policy_passes_and_sets() {
    let policy = policy(
        "  environment: {pass: [LANG], set: {HOME: \"/tmp/elsewhere\"}}\n  \
         models: {upstream: {url: \"http://127.0.0.1:8080/v1\"}}\n",
    );
    let planned = Host::of(fixture::ordinary_user()).plan(&policy).unwrap();
    let Some(Step::Execute(command)) = planned.launch.steps.last() else {
        panic!("the last step executes");
    };
    insta::assert_snapshot!(command.environment.join("\n"), @"
    ANTHROPIC_API_KEY=placeholder-the-real-key-stays-outside
    ANTHROPIC_BASE_URL=http://inference.local
    HOME=/tmp/elsewhere
    HTTPS_PROXY=http://127.0.0.2:3128
    HTTP_PROXY=http://127.0.0.2:3128
    LANG=C.UTF-8
    LOGNAME=agent
    NO_PROXY=localhost,127.0.0.1,::1
    OPENAI_API_BASE=http://inference.local/v1
    OPENAI_API_KEY=placeholder-the-real-key-stays-outside
    OPENAI_BASE_URL=http://inference.local/v1
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    SHELL=/bin/sh
    TMPDIR=/tmp
    USER=agent
    http_proxy=http://127.0.0.2:3128
    https_proxy=http://127.0.0.2:3128
    no_proxy=localhost,127.0.0.1,::1
    ");
}

#[test]
fn limits_are_set_where_the_host_has_them() {
    let policy = policy(
        "  resources: {memory: 64MiB, pids: 20, cpus: 0.5, open_files: 100}\n  \
         enforcement: {cgroups: best_effort}\n",
    );
    let planned = Host::of(fixture::ordinary_user()).plan(&policy).unwrap();
    assert_eq!(planned.launch.cgroup, None);
    let steps = steps(&planned);
    assert!(steps.contains(&"limit open files to 100".to_owned()));
    // The agent's own and the two of its launcher.
    assert!(steps.contains(&"limit processes to 22".to_owned()));
    let finding = planned
        .report
        .findings
        .iter()
        .find(|finding| finding.mechanism == "cgroups");
    let finding = finding.expect("it is reported");
    assert_eq!(finding.extent, Extent::Partly);
    assert_eq!(
        finding.lacks.len(),
        2,
        "memory and cpu: {:?}",
        finding.lacks
    );
}
