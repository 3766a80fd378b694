//! The threads that compute: as many as RAYON_NUM_THREADS says, within reason, and as the system
//! gives.

use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::num::NonZero;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Threads that compute at most, for each of the processor's own: more of them wait for each other
/// and never end.
const MOST_EACH: usize = 4;

/// Starts the threads that everything computes on. Where the system has fewer than are wanted,
/// those do; where it has none, the calling thread computes.
pub(super) fn start() {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let waiting: Vec<_> =
        (0..wanted(std::env::var("RAYON_NUM_THREADS").ok().as_deref(), cores)).map_while(worker).collect();
    let pool = ThreadPoolBuilder::new();
    // There is another pool already where something computed before, which is then used.
    let _ = match waiting.len() {
        0 => pool.num_threads(1).use_current_thread().build_global(),
        count => {
            let mut waiting = waiting.into_iter();
            let hand = move |work| waiting.next().and_then(|thread| thread.send(work).ok()).ok_or_else(gone);
            pool.num_threads(count).spawn_handler(hand).build_global()
        }
    };
}

fn gone() -> std::io::Error {
    std::io::Error::other("a thread has ended")
}

/// The number of threads to start on a processor with `cores` cores when a user asked for `asked`.
fn wanted(asked: Option<&str>, cores: usize) -> usize {
    match asked.and_then(|asked| asked.trim().parse::<usize>().ok()) {
        None | Some(0) => cores,
        Some(asked) => asked.min(cores.saturating_mul(MOST_EACH)),
    }
}

/// A thread that waits for its work, if the system has one left.
fn worker(number: usize) -> Option<Sender<ThreadBuilder>> {
    let (give, take) = channel::<ThreadBuilder>();
    let work = move || {
        if let Ok(work) = take.recv() {
            work.run();
        }
    };
    thread::Builder::new().name(format!("compute-{number}")).spawn(work).ok().map(|_| give)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_what_is_asked_for_within_reason() {
        for (asked, count) in [
            (None, 2),
            (Some("0"), 2),
            (Some("1"), 1),
            (Some("3"), 3),
            (Some(" 8 "), 8),
            (Some("1000"), 8),
            (Some("18446744073709551615"), 8),
            (Some("18446744073709551616"), 2),
            (Some("-1"), 2),
            (Some("many"), 2),
            (Some(""), 2),
        ] {
            assert_eq!(wanted(asked, 2), count, "{asked:?}");
        }
    }
}
