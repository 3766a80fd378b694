//! The destinations of results: devices, pipes, links, unwritable folders, a closed stdout, and
//! processes that are killed.
#![cfg(all(feature = "cli", feature = "embedded-model", unix))]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::{TempDir, tempdir};
use zimage::Image;

const PROGRAM: &str = env!("CARGO_BIN_EXE_zimage");

/// Arguments that generate a picture quickly.
const QUICK: [&str; 12] =
    ["generate", "a fox", "-W", "16", "-H", "16", "--steps", "1", "--seed", "1", "--backend", "cpu"];

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

/// Runs `generate -o NAME`.
fn draw(folder: &Path, name: &str) -> Output {
    program(folder, &[&QUICK[..], &["-o", name]].concat()).output().unwrap()
}

/// Runs a script in which `$Z` is the program and `draw` generates a picture.
fn shell(folder: &Path, script: &str) -> Output {
    let script = format!("draw() {{ \"$Z\" {} \"$@\"; }}; {script}", QUICK.map(quoted).join(" "));
    Command::new("bash").current_dir(folder).args(["-c", &script]).env("Z", PROGRAM).output().unwrap()
}

/// Standard error without the warning about the size, which is small to save time.
fn error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("warning: this model was trained for"))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

/// Asserts this exit code and one line that contains `says`.
#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let error = error(output);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.starts_with("error: ") && error.contains(says) && error.lines().count() == 1, "{error}");
}

#[track_caller]
fn wrote(output: &Output) {
    let error = error(output);
    assert!(output.status.success() && error.starts_with("wrote "), "{error}");
}

#[track_caller]
fn is_picture(path: &Path) {
    assert_eq!(Image::open(path).unwrap().info.prompt, "a fox");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder that every user may enter, with a copy of the program for other users.
fn public() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("zimage");
    fs::copy(PROGRAM, &copy).unwrap();
    (folder, copy)
}

/// True, with a line that says why, if a test that needs root and some tools cannot run here.
fn lacks_root(tools: &[&str]) -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let missing = |tool: &&&str| !shell(Path::new("/"), &format!("command -v {tool}")).status.success();
    let why = match tools.iter().find(missing) {
        _ if !is_root => "this test is for root".to_owned(),
        Some(tool) => format!("there is no {tool}"),
        None => return false,
    };
    let _ = writeln!(std::io::stderr(), "skipped: output: {why}");
    true
}

/// Runs `generate -o NAME` as the user nobody.
fn draw_as_nobody(folder: &Path, copy: &Path, name: &str) -> Output {
    let line = format!("cd {} && {} {} -o {name}", folder.display(), copy.display(), QUICK.map(quoted).join(" "));
    Command::new("su").args(["nobody", "-s", "/bin/sh", "-c", &line]).output().unwrap()
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}

#[test]
fn stages_never_replace_devices_or_links() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    let ones = [1f32; 64].map(f32::to_le_bytes).concat();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 16, 2, 2], &ones).unwrap();
    safetensors::serialize_to_file([("vae.a.latents", view)], None, &f.join("in.safetensors")).unwrap();
    assert!(Command::new("mkfifo").arg(f.join("pipe")).status().unwrap().success());
    fs::write(f.join("ro"), "mine").unwrap();
    fs::set_permissions(f.join("ro"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::write(f.join("target"), "old").unwrap();
    symlink("target", f.join("link")).unwrap();
    symlink("/dev/null", f.join("null")).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single");
    let stages = |output: &str| {
        program(f, &["stages", "-m", model.to_str().unwrap(), "-i", "in.safetensors", "-o", output]).output().unwrap()
    };
    fails(&stages("pipe"), 3, "no program reads from this pipe");
    fails(&stages("ro"), 3, "write-protected");
    for name in ["link", "null"] {
        let done = stages(name);
        assert!(done.status.success(), "{}", error(&done));
    }
    let piped = stages("-");
    assert!(piped.status.success(), "{}", error(&piped));
    let written = fs::read(f.join("target")).unwrap();
    assert!(safetensors::SafeTensors::deserialize(&written).is_ok() && piped.stdout == written);
    assert!(fs::symlink_metadata(f.join("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(f.join("link")).unwrap().is_symlink());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(fs::read(f.join("ro")).unwrap(), b"mine");
    if !lacks_root(&["mknod"]) && shell(f, "mknod -m 666 node c 1 3").status.success() {
        assert!(stages("node").status.success());
        assert!(fs::metadata(f.join("node")).unwrap().file_type().is_char_device());
    }
}

#[test]
fn devices_receive_pictures_and_stay_devices() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    wrote(&draw(f, "/dev/null"));
    fails(&draw(f, "/dev/full"), 3, "No space left");
    fails(&program(f, &[&QUICK[..], &["-c", "2", "-o", "/dev/null"]].concat()).output().unwrap(), 2, "one picture");
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(names(f).is_empty() && !Path::new("/dev/null-1.").exists());
}

#[test]
fn standard_output_aliases_are_recognized() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    let piped = draw(f, "-");
    wrote(&piped);
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let output = draw(f, name);
        assert!(output.status.success() && output.stdout == piped.stdout, "{name}: {}", error(&output));
        fails(&program(f, &[&QUICK[..], &["--json", "-o", name]].concat()).output().unwrap(), 2, "--json");
    }
    // A file that the shell opened for appending keeps its content.
    assert!(shell(f, "echo before > log; draw -o /dev/stdout >> log; draw -o /dev/fd/3 3> third").status.success());
    assert_eq!(fs::read(f.join("log")).unwrap(), [b"before\n", piped.stdout.as_slice()].concat());
    assert_eq!(fs::read(f.join("third")).unwrap(), piped.stdout);
}

#[test]
fn closed_standard_output_is_an_error() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    // The model is wrong as well: the error precedes any work.
    for line in ["draw -m nowhere -o - >&-", "draw -m nowhere -o /dev/stdout >&-", "draw -m nowhere --json >&-"] {
        fails(&shell(f, line), 3, "standard output: it is closed");
    }
    fails(&shell(f, "$Z inspect >&-"), 3, "standard output: it is closed");
    wrote(&shell(f, "draw -o fox.png >&-"));
    // A parent process may pass /dev/null, opened for reading and writing.
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    wrote(&program(f, &[&QUICK[..], &["-o", "-"]].concat()).stdout(null).output().unwrap());
    fails(&shell(f, "draw -o - 1< /dev/null"), 3, "for reading only");
    fails(&shell(f, "draw -o - > /dev/full"), 3, "standard output: No space left");
    fails(&shell(f, "set -o pipefail; draw -o - | true"), 3, "standard output: Broken pipe");
    assert_eq!(names(f), ["fox.png"]);
}

#[cfg(target_os = "linux")]
#[test]
fn slow_reader_gets_the_whole_picture() {
    use std::os::fd::AsRawFd;
    let folder = tempdir().unwrap();
    let arguments = ["generate", "a fox", "-W", "128", "-H", "128", "--steps", "1", "--backend", "cpu", "-o", "-"];
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The pipe holds one page and is non-blocking, as Node.js and others pass them.
    // SAFETY: the calls set the size and the flags of an open descriptor and take no pointer.
    let [size, flags] = [(libc::F_SETPIPE_SZ, 4096), (libc::F_SETFL, libc::O_NONBLOCK)]
        .map(|(command, value)| unsafe { libc::fcntl(writer.as_raw_fd(), command, value) });
    assert_eq!((size, flags), (4096, 0));
    let mut child = program(folder.path(), &arguments).stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let mut picture = Vec::new();
    reader.read_to_end(&mut picture).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(picture.len() > 4096, "{} bytes fit into the pipe at once", picture.len());
    fs::write(folder.path().join("fox.png"), picture).unwrap();
    is_picture(&folder.path().join("fox.png"));
}

#[test]
fn file_size_limit_is_one_sentence() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    fs::write(f.join("old.png"), "old").unwrap();
    fs::hard_link(f.join("old.png"), f.join("other.png")).unwrap();
    for name in ["new.png", "old.png"] {
        fails(&shell(f, &format!("ulimit -f 0; draw -o {name}")), 3, "File too large");
    }
    assert_eq!(names(f), ["old.png", "other.png"]);
    assert_eq!(fs::read(f.join("old.png")).unwrap(), b"old");
}

#[test]
fn trailing_slash_is_refused_early() {
    let folder = tempdir().unwrap();
    fails(&draw(folder.path(), "new.png/"), 2, "try -o new.png");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn dangling_link_gets_its_target() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    symlink("target.png", f.join("link.png")).unwrap();
    wrote(&draw(f, "link.png"));
    assert!(fs::symlink_metadata(f.join("link.png")).unwrap().is_symlink());
    is_picture(&f.join("target.png"));
}

#[test]
fn permitted_files_of_others_are_written() {
    if lacks_root(&["su"]) {
        return;
    }
    let (folder, copy) = public();
    let f = folder.path();
    let open = |path: &str, mode| fs::set_permissions(f.join(path), fs::Permissions::from_mode(mode)).unwrap();
    // One file of another user is in a folder such as /tmp, and one in an unwritable folder.
    for (place, mode) in [("sticky", 0o1777), ("closed", 0o555)] {
        fs::create_dir(f.join(place)).unwrap();
        let file = format!("{place}/a.png");
        fs::write(f.join(&file), "old").unwrap();
        open(&file, 0o666);
        open(place, mode);
        wrote(&draw_as_nobody(f, &copy, &file));
        is_picture(&f.join(&file));
        let found = fs::metadata(f.join(&file)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777, names(&f.join(place)).len()), (0, 0o666, 1));
    }
    symlink("closed/a.png", f.join("link.png")).unwrap();
    wrote(&draw_as_nobody(f, &copy, "link.png"));
    fs::write(f.join("closed/b.png"), "mine").unwrap();
    fails(&draw_as_nobody(f, &copy, "closed/b.png"), 3, "Permission denied");
    fails(&draw_as_nobody(f, &copy, "closed/new.png"), 3, "no file can be written here");
    assert_eq!(fs::read(f.join("closed/b.png")).unwrap(), b"mine");
}

#[test]
fn immutable_file_is_refused_early() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    if lacks_root(&["chattr"]) {
        return;
    }
    fs::write(f.join("i.png"), "mine").unwrap();
    if !shell(f, "chattr +i i.png").status.success() {
        let _ = writeln!(std::io::stderr(), "skipped: output: this file system has no immutable files");
        return;
    }
    let output = program(f, &[&QUICK[..], &["-m", "nowhere", "-o", "i.png"]].concat()).output().unwrap();
    assert!(shell(f, "chattr -i i.png").status.success());
    fails(&output, 3, "i.png: no file can be written here (Operation not permitted");
    assert_eq!(fs::read(f.join("i.png")).unwrap(), b"mine");
}

#[test]
fn mounted_file_is_written_in_place() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    if lacks_root(&["unshare", "mount"]) {
        return;
    }
    fs::write(f.join("source.png"), "old").unwrap();
    fs::write(f.join("a.png"), "").unwrap();
    let script = "unshare --mount sh -c 'mount --bind source.png a.png || exit 77; exec \"$@\"' sh ";
    let output = shell(f, &format!("{script} {PROGRAM} {} -o a.png", QUICK.map(quoted).join(" ")));
    if output.status.code() == Some(77) || error(&output).contains("unshare failed") {
        let _ = writeln!(std::io::stderr(), "skipped: output: this container cannot mount");
        return;
    }
    wrote(&output);
    is_picture(&f.join("source.png"));
    assert_eq!(names(f), ["a.png", "source.png"]);
}

#[test]
fn processes_with_equal_pids_share_a_folder() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    for attempt in 0..100 {
        fs::write(f.join(format!(".zimage-1-{attempt}.tmp")), "").unwrap();
        fs::write(f.join(format!(".zimage-{attempt}.tmp")), "").unwrap();
    }
    let number = match lacks_root(&["unshare"]) || !shell(f, "unshare --pid --fork true").status.success() {
        true => "",
        false => "unshare --pid --fork",
    };
    // unshare runs a program; a shell function is not one.
    let one = match number {
        "" => "draw".to_owned(),
        number => format!("{number} \"$Z\" {}", QUICK.map(quoted).join(" ")),
    };
    let output = shell(f, &format!("for i in $(seq 12); do {one} 2>&1 & done; wait"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("wrote ")).count(), 12, "{said}");
    assert_eq!(names(f).len(), 12, "{:?}", names(f));
    assert!(names(f).iter().all(|name| name.starts_with("zimage") && name.ends_with(".png")));
}

/// Kills the program after its first picture, while it draws others. A file that only tests whether
/// the folder is writable is not a picture.
fn kill_while_drawing(folder: &Path, wait: Duration) {
    let arguments = [&QUICK[..], &["--count", "1000"]].concat();
    let mut child: Child = program(folder, &arguments).stderr(Stdio::null()).spawn().unwrap();
    while !names(folder).iter().any(|name| name.ends_with(".png")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_process_leaves_no_partial_picture() {
    for wait in [0, 1, 3, 7, 20, 50].map(Duration::from_millis) {
        let folder = tempdir().unwrap();
        let f = folder.path();
        kill_while_drawing(f, wait);
        for name in names(f).iter().filter(|name| name.ends_with(".png")) {
            is_picture(&f.join(name));
        }
        let left = names(f).len();
        fs::write(f.join(".zimage-dead12.tmp"), "half").unwrap();
        wrote(&draw(f, "last.png"));
        assert!(names(f).iter().all(|name| name.ends_with(".png")), "{:?}", names(f));
        assert!(left > 0);
    }
}

#[test]
fn process_killed_early_leaves_nothing() {
    let folder = tempdir().unwrap();
    let mut child = program(folder.path(), &["generate", "a fox", "--steps", "1000", "--backend", "cpu"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(names(folder.path()).is_empty());
}
