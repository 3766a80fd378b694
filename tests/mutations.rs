//! Randomly damaged files: each one ends in a one-line error or in an allowed picture. No file
//! causes a panic or a signal, takes more than 2 GB or 20 s, or draws a picture that diffusers
//! would not draw.
//!
//! Each kind of file is one test. Its inputs run in worker processes, which are this program again.
//! The same seed makes the same input, so that `tests/fuzz --only KIND --seed SEED --cases 1`
//! repeats one. These variables set the number of inputs: MUTATIONS_SEED, the first seed;
//! MUTATIONS_CASES and MUTATIONS_SECONDS, the limits; MUTATIONS_WORKERS, the number of parallel
//! workers.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "support/mutations/mod.rs"]
mod inputs;
#[path = "support/mutations_worker.rs"]
mod worker;

use inputs::Kind;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The inputs of each kind in a plain run, and its time limit in seconds.
const CASES: u64 = 3000;
const SECONDS: u64 = 30;
/// A plain run with fewer inputs fails: it has tested too little.
const FEWEST: u64 = 20;
/// A worker that is silent for so long hangs. The 20 s limit of an input is CPU time.
const SILENCE: Duration = Duration::from_secs(90);
/// A run ends after this many faults.
const MOST_FAULTS: usize = 20;

/// The variable that turns this program into a worker: the first seed and the step between seeds.
const WORKER: &str = "MUTATIONS_WORKER";

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}: {value:?} is not a number")))
}

/// The faults of a run.
#[derive(Default)]
struct Found {
    outcomes: BTreeMap<String, u64>,
    faults: Vec<String>,
}

/// Runs the inputs of `kind`, or acts as a worker of such a run.
fn run(kind: Kind, test: &str) {
    if let Ok(part) = std::env::var(WORKER) {
        let (first, step) = part.split_once(',').unwrap();
        worker::work(kind, first.parse().unwrap(), step.parse().unwrap());
        return;
    }
    let first = variable("MUTATIONS_SEED").unwrap_or(0);
    let wanted = variable("MUTATIONS_CASES").unwrap_or(CASES);
    let deadline = Instant::now() + Duration::from_secs(variable("MUTATIONS_SECONDS").unwrap_or(SECONDS));
    let workers = variable("MUTATIONS_WORKERS").unwrap_or(1).clamp(1, wanted.max(1));
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        for i in 0..workers {
            let found = &found;
            scope.spawn(move || watch(kind, test, first + i, workers, first.saturating_add(wanted), deadline, found));
        }
    });
    let found = found.into_inner().unwrap();
    let tried: u64 = found.outcomes.values().sum();
    println!("{}: {tried} inputs from seed {first} on: {:?}", kind.name(), found.outcomes);
    assert!(found.faults.is_empty(), "{} faults:\n{}", found.faults.len(), found.faults.join("\n"));
    assert!(tried >= wanted.min(FEWEST), "only {tried} inputs were tried");
}

/// Lets workers run every `step`th seed from `next` on, and starts a new worker after each death.
fn watch(kind: Kind, test: &str, mut next: u64, step: u64, end: u64, deadline: Instant, found: &Mutex<Found>) {
    while next < end && Instant::now() < deadline && found.lock().unwrap().faults.len() < MOST_FAULTS {
        let mut errors = tempfile::tempfile().unwrap();
        let (mut child, lines) = spawn(kind, test, next, step, &errors);
        let mut current = None;
        let death = loop {
            let line = match lines.recv_timeout(SILENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => break Some(format!("nothing for {} s", SILENCE.as_secs())),
                Err(RecvTimeoutError::Disconnected) => break Some(String::new()),
            };
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next().and_then(|seed| seed.parse::<u64>().ok()), words.next()) {
                (Some("begin"), Some(seed), _) => current = Some(seed),
                (Some("end"), Some(seed), Some(outcome)) => {
                    note(found, kind, seed, outcome);
                    current = None;
                    next = seed + step;
                }
                _ => {}
            }
            if next >= end || Instant::now() > deadline || found.lock().unwrap().faults.len() >= MOST_FAULTS {
                break None;
            }
        };
        let _ = child.kill();
        let status = child.wait().unwrap();
        let Some(mut death) = death else { return };
        if death.is_empty() {
            death = status.to_string();
        }
        let mut said = String::new();
        errors.rewind().unwrap();
        let _ = errors.read_to_string(&mut said);
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let Some(seed) = current else { panic!("the worker of {} died between inputs: {death}\n{said}", kind.name()) };
        note(found, kind, seed, &format!("fault: {death}; {first}"));
        next = seed + step;
    }
}

/// Starts a worker. The receiver yields its stdout line by line.
fn spawn(kind: Kind, test: &str, first: u64, step: u64, errors: &fs::File) -> (Child, Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(WORKER, format!("{first},{step}"))
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("a worker for {}: {error}", kind.name()));
    let output = BufReader::new(child.stdout.take().unwrap());
    let (send, lines) = channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    (child, lines)
}

/// Counts an outcome, and stores the input of a fault.
fn note(found: &Mutex<Found>, kind: Kind, seed: u64, outcome: &str) {
    let mut found = found.lock().unwrap();
    let class = outcome.split(':').next().unwrap_or_default().to_owned();
    *found.outcomes.entry(class).or_default() += 1;
    if let Some(fault) = outcome.strip_prefix("fault: ") {
        let case = kind.case(seed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        fs::create_dir_all(&folder).unwrap();
        let kept = folder.join(format!("{}-{seed}-{}", kind.name(), case.file.replace('/', "-")));
        fs::write(&kept, &case.bytes).unwrap();
        found.faults.push(format!("{} seed {seed} ({}, kept as {}): {fault}", kind.name(), case.file, kept.display()));
    }
}

#[test]
fn broken_weights_draw_no_wrong_picture() {
    run(Kind::Safetensors, "broken_weights_draw_no_wrong_picture");
}

#[test]
fn broken_configs_draw_no_wrong_picture() {
    run(Kind::Config, "broken_configs_draw_no_wrong_picture");
}

#[test]
fn broken_tokenizers_draw_no_wrong_picture() {
    run(Kind::Tokenizer, "broken_tokenizers_draw_no_wrong_picture");
}

#[test]
fn broken_indexes_draw_no_wrong_picture() {
    run(Kind::Index, "broken_indexes_draw_no_wrong_picture");
}

#[test]
fn broken_pictures_are_read_safely() {
    run(Kind::Png, "broken_pictures_are_read_safely");
}
