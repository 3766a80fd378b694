//! Repeated attempts: which failures are worth one, the waits between them, and the end of all of
//! them when the user cancels.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Attempts without a new byte before a download fails.
const ATTEMPTS: u32 = 5;
/// The longest wait that a hub may ask for; a longer one is the user's decision.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub again: Again,
}

/// The time to repeat a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a wait that doubles with each attempt.
    Soon,
    /// After the time that the hub asks for.
    After(Duration),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, again: Again::Never }
    }
}

/// The user's wish to stop, seen by all threads of a download.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Fails with [`Error::Cancelled`] once the user wants to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Waits, unless the user wants to stop.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        const SLICE: Duration = Duration::from_millis(20);
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// The attempts at one request or one file.
pub(super) struct Attempts<'a> {
    left: u32,
    wait: Duration,
    first_wait: Duration,
    stop: &'a Stop,
    /// Called before a wait, with its reason.
    on_wait: &'a dyn Fn(String),
}

impl<'a> Attempts<'a> {
    pub(super) fn new(first_wait: Duration, stop: &'a Stop, on_wait: &'a dyn Fn(String)) -> Self {
        Self { left: ATTEMPTS - 1, wait: first_wait, first_wait, stop, on_wait }
    }

    /// Starts to count anew, because new bytes have arrived.
    pub(super) fn renew(&mut self) {
        (self.left, self.wait) = (ATTEMPTS - 1, self.first_wait);
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// The failure's error if there is no further attempt; [`Error::Cancelled`].
    pub(super) fn after(&mut self, failure: Failure) -> Result<()> {
        self.stop.check()?;
        let wait = match failure.again {
            Again::Soon => self.wait,
            Again::After(wait) => wait,
            Again::Never => return Err(failure.error),
        };
        if self.left == 0 || wait > LONGEST_WAIT {
            return Err(failure.error);
        }
        self.left -= 1;
        self.wait *= 2;
        (self.on_wait)(format!("{}; next attempt in {:.0} s", failure.error, wait.as_secs_f64().ceil()));
        self.stop.sleep(wait)
    }

    /// Repeats `request` until it succeeds.
    ///
    /// # Errors
    /// As [`Attempts::after`].
    pub(super) fn run<T>(&mut self, request: impl Fn() -> Result<T, Failure>) -> Result<T> {
        loop {
            self.stop.check()?;
            match request() {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.after(failure)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn failure(again: Again) -> Failure {
        Failure { error: Error::Request("refused".into()), again }
    }

    #[test]
    fn waits_double_and_end() {
        let waits = RefCell::new(Vec::new());
        let note = |reason| waits.borrow_mut().push(reason);
        let stop = Stop::default();
        let mut attempts = Attempts::new(Duration::from_millis(10), &stop, &note);
        let start = Instant::now();
        assert!(attempts.run(|| Err::<(), _>(failure(Again::Soon))).is_err());
        assert!(start.elapsed() >= Duration::from_millis(10 + 20 + 40 + 80));
        assert_eq!(*waits.borrow(), ["refused; next attempt in 1 s"; 4]);
        attempts.renew();
        attempts.after(failure(Again::After(Duration::from_millis(1001)))).unwrap();
        assert_eq!(waits.borrow()[4], "refused; next attempt in 2 s");
        attempts.after(failure(Again::Soon)).unwrap();
        assert!(attempts.after(failure(Again::Never)).is_err());
        assert!(attempts.after(failure(Again::After(Duration::from_secs(301)))).is_err());
    }

    #[test]
    fn a_wait_ends_when_the_user_stops() {
        let stop = Stop::default();
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| stop.sleep(Duration::from_secs(3600)));
            stop.set();
            assert!(matches!(waits.join().unwrap(), Err(Error::Cancelled)));
        });
    }
}
