//! A terminal: the agent has one of its own, and the person's is as it was when it has ended.

use std::time::Duration;

use nemoclaw_tests::{Bench, Terminal};

#[test]
fn the_agent_has_a_terminal_of_its_own_of_the_persons_size() {
    let bench = Bench::new();
    let terminal = Terminal::open(33, 111);
    let live = bench
        .probing(&bench.policy(), &["terminal", "list:/dev/pts", "print:end"])
        .start_on(&terminal);
    let shown = terminal.read_until("end\r\n");
    let run = live.finish();
    assert_eq!(run.code(), 0, "{shown}");
    let line = shown
        .lines()
        .find(|line| line.contains("\"try\":\"terminal\""))
        .unwrap();
    let seen: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    let seen = &seen["detail"];
    assert_eq!(
        seen["is_terminal"],
        serde_json::json!([true, true, true]),
        "{seen}"
    );
    assert_eq!(seen["size"], serde_json::json!([33, 111]), "{seen}");
    assert_eq!(seen["controlling"], true, "{seen}");
    // The first of a devpts of its own.
    assert_eq!(seen["name"], "/dev/pts/0", "{seen}");
    assert_eq!(seen["foreground"], seen["group"], "{seen}");
    assert!(shown.contains("[\"0\",\"ptmx\"]"), "{shown}");
}

#[test]
fn the_persons_terminal_is_as_it_was_when_the_agent_has_ended() {
    let bench = Bench::new();
    for words in [&["exit:0"][..], &["die:KILL"]] {
        let terminal = Terminal::open(24, 80);
        let before = format!("{:?}", terminal.settings());
        let live = bench.probing(&bench.policy(), words).start_on(&terminal);
        let _ = live.finish();
        assert_eq!(format!("{:?}", terminal.settings()), before, "{words:?}");
    }
}

#[test]
fn a_resize_reaches_the_agent() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let live = bench
        .agent(&bench.policy(), &["bash", "-c", script])
        .start_on(&terminal);
    let _ = terminal.read_until("ready");
    terminal.resize(50, 132);
    let _ = terminal.read_until("50 132");
    assert_eq!(live.finish().code(), 0);
}

#[test]
fn keys_that_mean_signals_reach_the_agent_and_not_the_supervisor() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let live = bench
        .agent(&bench.policy(), &["bash", "-c", script])
        .start_on(&terminal);
    let _ = terminal.read_until("ready");
    terminal.type_text("\u{3}");
    let _ = terminal.read_until("interrupted");
    assert_eq!(live.finish().code(), 9);
}

#[test]
fn a_shell_has_job_control() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let live = bench
        .agent(&bench.policy(), &["bash", "--norc", "-i"])
        .start_on(&terminal);
    terminal.type_text("PS1=; set -o | grep monitor; echo answer-$((40 + 2))\n");
    let shown = terminal.read_until("answer-42");
    assert!(!shown.contains("no job control"), "{shown}");
    assert!(shown.contains("monitor        \ton"), "{shown}");
    terminal.type_text("sleep 30\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_text("\u{1a}");
    let _ = terminal.read_until("Stopped");
    terminal.type_text("fg\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_text("\u{3}");
    terminal.type_text("exit 5\n");
    assert_eq!(live.finish().code(), 5);
}

#[test]
fn an_end_of_input_typed_reaches_the_agent() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let live = bench
        .agent(&bench.policy(), &["sh", "-c", "echo ready; cat > typed"])
        .start_on(&terminal);
    let _ = terminal.read_until("ready");
    terminal.type_text("a line\n\u{4}");
    assert_eq!(live.finish().code(), 0);
    assert_eq!(
        std::fs::read_to_string(bench.work("typed")).unwrap(),
        "a line\n"
    );
}

#[test]
fn nothing_can_be_typed_for_the_person() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let tries = [
        "terminal-insert",
        "terminal-insert-wide",
        "terminal-console",
        "print:end",
    ];
    let live = bench.probing(&bench.policy(), &tries).start_on(&terminal);
    let shown = terminal.read_until("end\r\n");
    let _ = live.finish();
    for what in &tries[..3] {
        let line = shown
            .lines()
            .find(|line| line.contains(&format!("\"try\":\"{what}\"")))
            .unwrap();
        assert!(line.contains("EPERM"), "{line}");
    }
}

#[test]
fn with_a_pipe_as_standard_output_only_the_rest_is_a_terminal() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    let policy = bench.policy();
    // Inside the session with the terminal, standard output leads to a file.
    let file = bench.root().join("output");
    let script = format!("exec \"$@\" > '{}'", file.display());
    let live = bench
        .probing(&policy, &["terminal"])
        .through(&["sh", "-c", &script, "sh"])
        .start_on(&terminal);
    assert_eq!(live.finish().code(), 0);
    let text = std::fs::read_to_string(file).unwrap();
    let seen: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        seen["detail"]["is_terminal"],
        serde_json::json!([true, false, true]),
        "{seen}"
    );
    assert!(!text.contains('\r'), "what goes to a file is not changed");
}

#[test]
fn an_interrupt_typed_where_the_input_is_no_terminal_reaches_the_agent_once() {
    let bench = Bench::new();
    let terminal = Terminal::open(24, 80);
    // The terminal sends the signal to the whole foreground process group.
    let file = bench.root().join("output");
    let script = format!("exec \"$@\" < /dev/null > '{}' 2>&1", file.display());
    let agent = "count=0; trap 'count=$((count+1))' INT; touch ready; \
                 i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i+1)); done; echo count $count; exit 9";
    let live = bench
        .agent(&bench.policy(), &["bash", "-c", agent])
        .through(&["sh", "-c", &script, "sh"])
        .start_on(&terminal);
    assert!(nemoclaw_tests::within(Duration::from_secs(20), || bench
        .work("ready")
        .exists()));
    terminal.type_text("\u{3}");
    let run = live.finish();
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(run.code(), 9, "{text}");
    assert!(text.contains("count 1"), "{text}");
}
