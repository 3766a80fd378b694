//! The progress line of `generate`.

use super::signals::Interrupt;
use super::terminal::{is_quiet, note};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use zimage::{Progress, Stage};

/// A line on standard error that is drawn anew as the work goes on; nothing at all where that is no
/// terminal.
pub(super) struct Bar {
    line: ProgressBar,
    interrupt: Interrupt,
    course: Course,
}

impl Bar {
    /// Shows that the model is being loaded. From now on a signal asks the work to stop.
    pub(super) fn new() -> Self {
        Self::of(1, 1)
    }

    /// The same, for so many pictures, `batch` at a time.
    pub(super) fn of(pictures: usize, batch: usize) -> Self {
        let line = line();
        let interrupt = Interrupt::defer(line.clone());
        let bar = Self { line, interrupt, course: Course::new(pictures, batch) };
        bar.show(View::Words("loading the model"));
        bar
    }

    /// Tells whether a signal asked to stop, also while the bar is lent to the work.
    pub(super) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Prints a line above it.
    pub(super) fn note(&self, text: &str) {
        self.line.suspend(|| note(text));
    }

    /// Clears the line, so that the next output begins at the margin.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }

    fn show(&self, view: View) {
        match view {
            View::Words(words) => {
                style(&self.line, "{spinner} {prefix} · {elapsed}");
                self.line.set_prefix(words);
            }
            View::Load { done, of } => {
                self.line.set_length(of);
                self.line.set_position(done);
                if done == 0 {
                    style(&self.line, "loading {bytes} of {total_bytes} {bar:30} {elapsed}");
                }
            }
            View::Work { what, done, of, left } => {
                self.line.set_length(of as u64);
                self.line.set_position(done as u64);
                self.line.set_message(left);
                style(&self.line, "{prefix} {wide_bar} {elapsed} · {msg} left");
                self.line.set_prefix(what);
            }
        }
    }
}

impl Progress for Bar {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        if let Some(view) = self.course.update(stage, Instant::now()) {
            self.show(view);
        }
        if self.interrupt.is_pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A line with a spinner, or a hidden one where nobody would see it.
pub(super) fn line() -> ProgressBar {
    if is_quiet() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let line = ProgressBar::new_spinner();
    // A thread turns the spinner. Where the system has no thread left, the line does not move.
    if std::thread::Builder::new().spawn(|| {}).is_ok() {
        line.enable_steady_tick(Duration::from_millis(100));
    }
    line
}

/// Gives a line another look.
pub(super) fn style(line: &ProgressBar, template: &str) {
    // The templates are constants; one that did not parse would only cost the looks.
    if let Ok(style) = ProgressStyle::with_template(template) {
        line.set_style(style.progress_chars("━╸ "));
    }
}

/// The content of the line.
#[derive(Debug, PartialEq)]
enum View {
    Words(&'static str),
    /// Bytes.
    Load {
        done: u64,
        of: u64,
    },
    /// `done` of `of` steps, where the decoding of a batch counts as one.
    Work {
        what: String,
        done: usize,
        of: usize,
        left: String,
    },
}

/// The progress of a run, from the stages that it reports.
struct Course {
    pictures: usize,
    batch: usize,
    /// Batches that are decoded.
    decoded: usize,
    /// Steps that are done, and steps in all, over all pictures.
    steps: (usize, usize),
    stepping: Pace,
    decoding: Pace,
    /// The stage that is under way, and when it began.
    under_way: Option<(Stage, Instant)>,
}

/// A count of something that was done, and the time that it took.
#[derive(Default)]
struct Pace {
    times: u32,
    taken: Duration,
}

impl Pace {
    fn add(&mut self, taken: Duration) {
        self.times += 1;
        self.taken += taken;
    }

    fn each(&self) -> Option<Duration> {
        self.taken.checked_div(self.times).filter(|each| !each.is_zero())
    }
}

impl Course {
    fn new(pictures: usize, batch: usize) -> Self {
        let pictures = pictures.max(1);
        let batch = batch.max(1);
        let stepping = Pace::default();
        let decoding = Pace::default();
        Self { pictures, batch, decoded: 0, steps: (0, 0), stepping, decoding, under_way: None }
    }

    /// Takes the run on to `stage`; returns the content of the line.
    fn update(&mut self, stage: Stage, now: Instant) -> Option<View> {
        match (self.under_way.replace((stage, now)), stage) {
            (Some((Stage::Vae, began)), _) => {
                self.decoding.add(now.duration_since(began));
                self.decoded += 1;
            }
            (Some((Stage::Step { .. }, began)), Stage::Step { .. }) => self.stepping.add(now.duration_since(began)),
            _ => {}
        }
        match stage {
            Stage::Load { done, of } => Some(View::Load { done, of }),
            Stage::TextEncoder => Some(View::Words("reading the prompt")),
            Stage::Step { done, of } => {
                self.steps = (done, of);
                let each = of / self.batches();
                let own = done.saturating_sub(self.decoded * each);
                Some(self.work(&format!("step {own}/{each}")))
            }
            Stage::Vae => Some(self.work("decoding")),
            // A stage that is added later leaves the line as it is.
            _ => None,
        }
    }

    fn batches(&self) -> usize {
        self.pictures.div_ceil(self.batch)
    }

    fn work(&self, what: &str) -> View {
        let first = self.decoded * self.batch + 1;
        let last = (first + self.batch - 1).min(self.pictures);
        let pictures = self.pictures;
        let what = match (pictures, last > first) {
            (1, _) => what.to_owned(),
            (_, false) => format!("picture {first} of {pictures} · {what}"),
            (_, true) => format!("pictures {first}–{last} of {pictures} · {what}"),
        };
        let (done, of) = self.steps;
        let steps_left = of.saturating_sub(done);
        let decodes_left = self.batches().saturating_sub(self.decoded);
        let step = self.stepping.each();
        let left = step.map(|each| each.mul_f64(steps_left as f64) + self.decoding_left(decodes_left));
        View::Work { what, done: done + self.decoded, of: of + self.batches(), left: pace(step, left) }
    }

    /// Nothing until a picture was decoded.
    fn decoding_left(&self, decodes: usize) -> Duration {
        self.decoding.each().unwrap_or_default().mul_f64(decodes as f64)
    }
}

/// `2.50 steps/s · 4s`: the rate, and how long the rest takes; `4.00 s/step` where that is the
/// number one can picture.
fn pace(each: Option<Duration>, left: Option<Duration>) -> String {
    let (Some(each), Some(left)) = (each, left) else {
        return "– steps/s · –".to_owned();
    };
    let seconds = each.as_secs_f64();
    let rate = if seconds > 1.0 { format!("{seconds:.2} s/step") } else { format!("{:.2} steps/s", 1.0 / seconds) };
    let left = Duration::from_secs(left.as_secs_f64().ceil() as u64);
    format!("{rate} · {:#}", HumanDuration(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use zimage::Error;

    #[test]
    fn paces_are_numbers_one_can_picture() {
        let of = |each: u64, left: u64| pace(Some(Duration::from_millis(each)), Some(Duration::from_secs(left)));
        assert_eq!(of(400, 4), "2.50 steps/s · 4s");
        assert_eq!(of(4000, 120), "4.00 s/step · 2m");
        assert_eq!(pace(None, None), "– steps/s · –");
    }

    /// The content of the line for `stages` that each take a second.
    fn shown(course: &mut Course, stages: &[Stage]) -> Vec<(String, usize, usize, String)> {
        let start = Instant::now();
        let at = |i: usize| start + Duration::from_secs(i as u64);
        let views = stages.iter().enumerate().filter_map(|(i, stage)| course.update(*stage, at(i)));
        let work = |view| match view {
            View::Work { what, done, of, left } => Some((what, done, of, left)),
            _ => None,
        };
        views.filter_map(work).collect()
    }

    fn step(done: usize, of: usize) -> Stage {
        Stage::Step { done, of }
    }

    #[test]
    fn the_bar_counts_pictures_and_includes_decoding() {
        let run = [
            Stage::TextEncoder,
            step(0, 4),
            step(1, 4),
            step(2, 4),
            Stage::Vae,
            Stage::TextEncoder,
            step(2, 4),
            step(3, 4),
            step(4, 4),
            Stage::Vae,
        ];
        let shown = shown(&mut Course::new(2, 1), &run);
        let expected = [
            ("picture 1 of 2 · step 0/2", 0, "– steps/s · –"),
            ("picture 1 of 2 · step 1/2", 1, "1.00 steps/s · 3s"),
            ("picture 1 of 2 · step 2/2", 2, "1.00 steps/s · 2s"),
            ("picture 1 of 2 · decoding", 2, "1.00 steps/s · 2s"),
            ("picture 2 of 2 · step 0/2", 3, "1.00 steps/s · 3s"),
            ("picture 2 of 2 · step 1/2", 4, "1.00 steps/s · 2s"),
            ("picture 2 of 2 · step 2/2", 5, "1.00 steps/s · 1s"),
            ("picture 2 of 2 · decoding", 5, "1.00 steps/s · 1s"),
        ];
        let expected: Vec<_> =
            expected.map(|(what, done, left)| (what.to_owned(), done, 6, left.to_owned())).into_iter().collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn pictures_of_a_batch_are_named_together() {
        let run = [step(0, 2), step(1, 2), Stage::Vae, step(1, 2), step(2, 2), Stage::Vae];
        let words: Vec<String> = shown(&mut Course::new(3, 2), &run).into_iter().map(|(what, ..)| what).collect();
        assert_eq!(words[0], "pictures 1–2 of 3 · step 0/1");
        assert_eq!(words[5], "picture 3 of 3 · decoding");
        let alone = shown(&mut Course::new(1, 4), &run[..3]);
        assert_eq!(alone[2].0, "decoding");
    }

    #[test]
    fn loading_between_steps_does_not_count_for_the_pace() {
        let mut course = Course::new(1, 1);
        shown(&mut course, &[Stage::TextEncoder, step(0, 4), step(1, 4), Stage::Load { done: 0, of: 9 }, step(1, 4)]);
        assert_eq!((course.stepping.times, course.stepping.taken), (1, Duration::from_secs(1)));
    }

    #[test]
    fn a_signal_stops_the_work() {
        static RECEIVED: AtomicUsize = AtomicUsize::new(0);
        let line = ProgressBar::hidden();
        let interrupt = Interrupt::of(&RECEIVED);
        let mut bar = Bar { line, interrupt, course: Course::new(1, 1) };
        assert!(bar.update(step(0, 2)).is_continue());
        assert!(bar.interrupt().check().is_ok());
        RECEIVED.store(15, Ordering::SeqCst);
        assert!(bar.update(step(1, 2)).is_break());
        assert!(matches!(bar.interrupt().check(), Err(Error::Cancelled)));
    }
}
