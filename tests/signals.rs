//! Signals from a shell, a service manager and a container.
#![cfg(all(unix, feature = "cli", feature = "embedded-model"))]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::tempdir;
use zimage::Image;

const ZIMAGE: &str = env!("CARGO_BIN_EXE_zimage");
/// Arguments that keep the program busy much longer than any test waits.
const LONG: [&str; 8] = ["generate", "a fox", "--steps", "1000", "--backend", "cpu", "-o", "fox.png"];

fn start(folder: &Path, program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the signal handlers are installed, which takes milliseconds.
fn wait_for_start() {
    std::thread::sleep(Duration::from_millis(1000));
}

fn send(signal: &str, process: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status().unwrap();
    assert!(status.success(), "{signal}");
}

/// The output of a program, which must exit soon.
#[track_caller]
fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("the program goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn each_signal_cancels_and_leaves_nothing() {
    for (signal, code, said) in [
        ("INT", 130, "stopping after this step; Ctrl-C again stops at once"),
        ("TERM", 143, "stopping after this step (SIGTERM); a second signal stops at once"),
        ("HUP", 129, "stopping after this step (SIGHUP); a second signal stops at once"),
    ] {
        let folder = tempdir().unwrap();
        let child = start(folder.path(), ZIMAGE, &LONG);
        wait_for_start();
        send(signal, child.id());
        let output = ended(child);
        assert_eq!(text(output.stderr), format!("{said}\nerror: cancelled\n"));
        assert_eq!(output.status.code(), Some(code), "{signal}");
        assert!(files(folder.path()).is_empty(), "{signal}");
    }
}

#[test]
fn finished_pictures_survive_a_signal() {
    let folder = tempdir().unwrap();
    let small = ["generate", "a fox", "--width", "64", "--height", "64", "--steps", "1"];
    let child = start(folder.path(), ZIMAGE, &[&small[..], &["--count", "1000", "-o", "fox.png"]].concat());
    let (first, begin) = (folder.path().join("fox-1.png"), Instant::now());
    while !first.exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    send("TERM", child.id());
    let output = ended(child);
    let errors = text(output.stderr);
    assert_eq!(output.status.code(), Some(143), "{errors}");
    assert!(errors.contains("kept fox-1.png\n") && errors.ends_with("error: cancelled\n"), "{errors}");
    for file in files(folder.path()) {
        assert!(errors.contains(&format!("kept {file}\n")), "{file}: {errors}");
        assert_eq!(Image::open(&folder.path().join(&file)).unwrap().info.prompt, "a fox");
    }
}

#[test]
fn second_signal_stops_at_once() {
    let folder = tempdir().unwrap();
    // A step of this size takes seconds, much longer than the time between the signals.
    let child = start(folder.path(), ZIMAGE, &[&LONG[..], &["--width", "1024", "--height", "1024"]].concat());
    wait_for_start();
    send("INT", child.id());
    std::thread::sleep(Duration::from_millis(200));
    send("TERM", child.id());
    let output = ended(child);
    let errors = text(output.stderr);
    assert_eq!(output.status.code(), Some(143), "{errors}");
    assert!(!errors.contains("cancelled"), "{errors}");
}

#[test]
fn commands_without_pictures_stop_at_once() {
    let folder = tempdir().unwrap();
    for arguments in [
        &["bench", "--backend", "cpu", "--width", "1024", "--height", "1024", "--filter", "picture"][..],
        &["parity", "--backends", "cpu", "--full"],
    ] {
        let child = start(folder.path(), ZIMAGE, arguments);
        wait_for_start();
        send("TERM", child.id());
        assert_eq!(ended(child).status.code(), Some(143), "{arguments:?}");
    }
}

#[test]
fn waiting_for_a_prompt_is_cancellable() {
    let folder = tempdir().unwrap();
    let mut command = Command::new(ZIMAGE);
    command.current_dir(folder.path()).args(["generate", "-"]).stdin(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    wait_for_start();
    send("TERM", child.id());
    assert_eq!(ended(child).status.code(), Some(143));
    drop(stdin);
}

#[test]
fn nohup_keeps_sighup_ignored() {
    let folder = tempdir().unwrap();
    let script = format!("trap '' HUP; exec '{ZIMAGE}' {}", "generate 'a fox' --steps 1000 --backend cpu -o fox.png");
    let child = start(folder.path(), "sh", &["-c", &script]);
    wait_for_start();
    send("HUP", child.id());
    std::thread::sleep(Duration::from_millis(500));
    send("TERM", child.id());
    let output = ended(child);
    assert_eq!(output.status.code(), Some(143));
    assert!(text(output.stderr).starts_with("stopping after this step (SIGTERM)"));
}

/// The first process of a container has PID 1: the kernel delivers it no signal without a handler.
#[cfg(target_os = "linux")]
#[test]
fn container_init_process_obeys_signals() {
    let unshare = ["--user", "--map-root-user", "--pid", "--fork"];
    let works = Command::new("unshare").args(unshare).arg("true").output().is_ok_and(|output| output.status.success());
    if !works {
        let _ = writeln!(std::io::stderr(), "skipped: signals: this system makes no new process namespaces (unshare)");
        return;
    }
    let commands: [&[&str]; 2] = [&LONG, &["parity", "--backends", "cpu", "--full"]];
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        for arguments in commands {
            let folder = tempdir().unwrap();
            let child = start(folder.path(), "unshare", &[&unshare[..], &[ZIMAGE], arguments].concat());
            wait_for_start();
            let inner = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
            send(signal, inner.trim().parse().unwrap());
            // unshare exits with its child's exit code.
            assert_eq!(ended(child).status.code(), Some(code), "{signal} {arguments:?}");
        }
    }
}
