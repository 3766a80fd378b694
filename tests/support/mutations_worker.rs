//! The worker process for damaged inputs: it prints one line before each input and one after it.

use crate::inputs::{Allowed, Case, Kind};
use pollster::block_on;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use zimage::{BackendChoice, Engine, Error, ErrorKind, Image, Model, PngText, Request};

/// The limits of an input. The address space limit protects the machine from an input that exceeds
/// them.
const SECONDS: f64 = 20.0;
const RESIDENT: u64 = 2_000_000_000;
const ADDRESSES: u64 = 4_000_000_000;
/// Every 64th input also runs the program itself; the library runs the same code and is faster.
const PROGRAM: u64 = 64;
/// The longest error message, in characters.
const LONGEST_MESSAGE: usize = 2500;
const PROMPT: &str = "a red fox, 狐 <|im_end|> 🦊 2048";

/// The location and the message of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// A good input, and a folder for damaged ones.
struct Subject {
    kind: Kind,
    folder: tempfile::TempDir,
    /// The pixels of the good input.
    good: Vec<u8>,
}

/// Tries every `step`th seed from `first` on, until the parent ends this process.
pub(crate) fn work(kind: Kind, first: u64, step: u64) {
    limit();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        *PANIC.lock().unwrap() = format!("{} at {place}", panic.payload_as_str().unwrap_or_default());
    }));
    let subject = Subject::new(kind);
    // The test harness has started a line of output.
    println!();
    for seed in (first..).step_by(usize::try_from(step).unwrap()) {
        println!("begin {seed}");
        let case = kind.case(seed);
        // Resets the peak, so that it measures this input alone.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let start = processor_seconds();
        let outcome = catch_unwind(AssertUnwindSafe(|| subject.outcome(&case, seed)))
            .unwrap_or_else(|_| Err(format!("a panic: {}", PANIC.lock().unwrap())));
        let outcome = outcome.and_then(|outcome| {
            let (seconds, peak) = (processor_seconds() - start, peak());
            match (seconds > SECONDS, peak > RESIDENT) {
                (true, _) => Err(format!("{seconds:.0} s")),
                (_, true) => Err(format!("{peak} bytes of memory")),
                _ => Ok(outcome),
            }
        });
        match outcome {
            Ok(outcome) => println!("end {seed} {outcome}"),
            Err(fault) => println!("end {seed} fault: {}", fault.replace('\n', " ")),
        }
    }
}

fn limit() {
    let limit = libc::rlimit { rlim_cur: ADDRESSES, rlim_max: ADDRESSES };
    // SAFETY: the pointer is to a valid struct, which the call only reads.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid struct, which the call fills.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The largest resident size since the last reset.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Makes a folder of links to everything in `from`.
fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => link(&entry.path(), &to),
            false => symlink(entry.path(), to).unwrap(),
        }
    }
}

fn draw(model: &Path) -> zimage::Result<Vec<u8>> {
    let go = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(&Model::open(model)?, BackendChoice::Cpu, go))?;
    let size = Some(16);
    let request = Request { width: size, height: size, steps: Some(1), guidance: Some(0.0), ..Request::new(PROMPT) };
    Ok(block_on(engine.generate(&request, go))?.images.remove(0).pixels)
}

impl Subject {
    fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let good = match kind {
            Kind::Png => Vec::new(),
            _ => {
                link(&kind.model(), folder.path());
                draw(folder.path()).unwrap()
            }
        };
        Self { kind, folder, good }
    }

    /// One word for the outcome of an input, or a description of its fault.
    fn outcome(&self, case: &Case, seed: u64) -> Result<&'static str, String> {
        let path = self.folder.path().join(case.file);
        let link = fs::read_link(&path).ok();
        let _ = fs::remove_file(&path);
        fs::write(&path, &case.bytes).unwrap();
        let outcome = match self.kind {
            Kind::Png => self.picture(case, &path, seed),
            _ => self.model(case, seed),
        };
        if let Some(good) = link {
            fs::remove_file(&path).unwrap();
            symlink(good, &path).unwrap();
        }
        outcome
    }

    fn model(&self, case: &Case, seed: u64) -> Result<&'static str, String> {
        let drawn = draw(self.folder.path());
        if let Err(error) = &drawn {
            sentence(error)?;
        }
        if seed.is_multiple_of(PROGRAM) {
            self.program(drawn.is_ok())?;
        }
        let Ok(drawn) = drawn else { return Ok("refused") };
        match case.allowed {
            Allowed::Refused => Err("a picture was drawn where only an error is right".into()),
            Allowed::Same if drawn != self.good => Err("another picture than that of the good file".into()),
            _ if drawn == self.good => Ok("drawn the same"),
            _ if draw(self.folder.path()).ok() == Some(drawn) => Ok("drawn"),
            _ => Err("another picture each time".into()),
        }
    }

    /// Runs the program on the model: it must succeed or fail as the library did.
    fn program(&self, drawn: bool) -> Result<(), String> {
        let out = self.folder.path().join("out.png");
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        command.args(["generate", PROMPT, "--width", "16", "--height", "16", "--steps", "1", "--guidance", "0"]);
        command.args(["--backend", "cpu", "--model"]).arg(self.folder.path()).arg("-o").arg(&out);
        ends_well(&mut command, drawn)?;
        let found = fs::remove_file(&out).is_ok();
        (found == drawn).then_some(()).ok_or_else(|| format!("a picture where the program fails: {found}"))
    }

    fn picture(&self, case: &Case, path: &PathBuf, seed: u64) -> Result<&'static str, String> {
        let text = PngText::open(path);
        if let Err(error) = &text {
            sentence(error)?;
        }
        if seed.is_multiple_of(PROGRAM) {
            // Only the program reports a picture without texts as an error.
            let told = text.as_ref().is_ok_and(|text| text.info.is_some());
            let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
            command.arg("inspect").arg(path);
            let status = ends_well(&mut command, told);
            if told || text.is_err() {
                status?;
            }
        }
        match Image::open(path) {
            Err(error) => sentence(&error).map(|()| "refused"),
            Ok(image) if case.allowed == Allowed::Any => match image.pixels.len() == image.width * image.height * 3 {
                true => Ok("read"),
                false => Err(format!("{} bytes for {}×{}", image.pixels.len(), image.width, image.height)),
            },
            Ok(image) => match image.pixels.iter().enumerate().all(|(i, &x)| x == (i * 7 % 251) as u8) {
                true => Ok("read the same"),
                false => Err("other pixels, though no sum was mended".into()),
            },
        }
    }
}

/// Checks that an error is one line about something that the user can change.
fn sentence(error: &Error) -> Result<(), String> {
    let text = error.to_string();
    let known = matches!(error.kind(), ErrorKind::Files | ErrorKind::Request | ErrorKind::Device);
    let plain = !text.is_empty() && text.chars().count() <= LONGEST_MESSAGE && !text.chars().any(char::is_control);
    (known && plain).then_some(()).ok_or_else(|| format!("no sentence for a user ({:?}): {text:?}", error.kind()))
}

/// Runs a program that must succeed if `well` is set, and fail with a one-line error otherwise.
fn ends_well(command: &mut Command, well: bool) -> Result<(), String> {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let hidden = |c: char| match c {
        '\n' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => true,
        _ => c.is_control(),
    };
    let one_line = errors.starts_with("error: ") && errors.trim_end().lines().count() == 1 && !errors.contains(hidden);
    let right = match output.status.code() {
        Some(0) => well,
        Some(2..=4) => !well && one_line,
        _ => false,
    };
    right.then_some(()).ok_or_else(|| format!("the program ended otherwise: {}, {errors:?}", output.status))
}
