//! Signals that ask the program to end: Ctrl-C (SIGINT), SIGTERM, and SIGHUP where the system has
//! it.
//!
//! Each has a handler from the program's first moment on: to process 1 of a container Linux
//! delivers no signal that has none. At first a signal ends the program at once. Once work has
//! begun that is worth an orderly end, [`Interrupt::defer`], the first signal asks it to stop and
//! the second ends the program at once. The exit code is 128 plus the signal's number, as a shell
//! reports it.

use super::terminal::note;
use indicatif::ProgressBar;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zimage::{Error, Result};

/// The numbers are those of every system that Rust runs on.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// True if the next signal ends the program.
static AT_ONCE: AtomicBool = AtomicBool::new(true);
/// The signal that came last; 0 before the first.
static RECEIVED: AtomicUsize = AtomicUsize::new(0);

/// Installs the handlers. A signal whose handler cannot be installed keeps the system's.
pub(super) fn take_over() {
    for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored(signal)) {
        let _ = flag::register_conditional_shutdown(signal, 128 + signal, &AT_ONCE)
            .and_then(|_| flag::register_usize(signal, &RECEIVED, signal as usize))
            .and_then(|_| flag::register(signal, &AT_ONCE));
    }
}

/// True if the program was started with SIGHUP ignored, as `nohup` does: then it goes on being
/// ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: `sigaction` is plain numbers, for which zeros are valid; with no new action the call
    // only fills the old one.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0).then_some(action)
    };
    signal == libc::SIGHUP && action.is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

#[cfg(not(unix))]
fn is_ignored(_signal: i32) -> bool {
    false
}

/// The exit code of a command that was cancelled.
pub(super) fn exit_code() -> u8 {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => 128 + SIGINT as u8,
        signal => 128 + signal as u8,
    }
}

/// A view of the signals that ask the work to stop.
#[derive(Clone)]
pub(super) struct Interrupt {
    received: &'static AtomicUsize,
    /// True if the person was told. Locked while that is done, so that it comes before any other
    /// word.
    told: Arc<Mutex<bool>>,
    line: ProgressBar,
    /// The end of "stopping …".
    work: &'static str,
}

impl Interrupt {
    /// From now on the first signal only asks to stop, and says so above `line`.
    pub(super) fn defer(line: ProgressBar) -> Self {
        Self::defer_work(line, "after this step")
    }

    /// The same for other work than a picture's: `work` is the end of "stopping …".
    pub(super) fn defer_work(line: ProgressBar, work: &'static str) -> Self {
        let interrupt = Self { received: &RECEIVED, told: Arc::default(), line, work };
        let watched = interrupt.clone();
        // The work checks between its steps, which may be far apart: the person is told
        // immediately.
        let watch = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while Arc::strong_count(&watched.told) > 1 && !watched.is_pressed() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Without that thread a signal is still seen at the next step.
        drop(watch);
        AT_ONCE.store(false, Ordering::SeqCst);
        interrupt
    }

    /// Ends the work: from now on a signal ends the program at once, as it did before.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if a signal has come already.
    pub(super) fn release(self) -> Result<()> {
        AT_ONCE.store(true, Ordering::SeqCst);
        self.check()
    }

    /// Fails once a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_pressed() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// True if a signal has come; the first such answer also tells the person.
    pub(super) fn is_pressed(&self) -> bool {
        let signal = self.received.load(Ordering::SeqCst);
        if signal == 0 {
            return false;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *told, true) {
            self.line.suspend(|| note(&words(signal as i32, self.work)));
        }
        true
    }

    /// One that listens to `received` alone.
    #[cfg(test)]
    pub(super) fn of(received: &'static AtomicUsize) -> Self {
        Self { received, told: Arc::default(), line: ProgressBar::hidden(), work: "after this step" }
    }
}

fn words(signal: i32, work: &str) -> String {
    match signal {
        SIGINT => format!("stopping {work}; Ctrl-C again stops at once"),
        SIGTERM => format!("stopping {work} (SIGTERM); a second signal stops at once"),
        _ => format!("stopping {work} (SIGHUP); a second signal stops at once"),
    }
}
