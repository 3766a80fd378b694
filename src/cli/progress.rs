//! What a person sees while a picture is made, and Ctrl-C.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zimage::{Error, Progress, Result, Stage};

/// A line on standard error that is drawn anew as the work goes on; nothing at all where that is no terminal.
pub(super) struct Bar {
    line: ProgressBar,
    interrupt: Interrupt,
    /// When the step that is under way began; `None` in other stages.
    step_began: Option<Instant>,
    /// Steps so far and what they took, without the stages between them.
    steps: u32,
    taken: Duration,
}

impl Bar {
    /// Shows that the model is being loaded, and takes Ctrl-C over.
    pub(super) fn new() -> Self {
        let line = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        line.enable_steady_tick(Duration::from_millis(100));
        let interrupt = Interrupt::watch(line.clone());
        let bar = Self { line, interrupt, step_began: None, steps: 0, taken: Duration::ZERO };
        bar.say("loading the model");
        bar
    }

    /// Tells whether Ctrl-C was pressed, also while the bar is lent to the work.
    pub(super) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Takes the line away, so that what follows begins at the margin.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn say(&self, words: &'static str) {
        self.line.set_prefix(words);
        self.style("{spinner} {prefix} · {elapsed}");
    }

    fn style(&self, template: &str) {
        // The templates are this file's own; one that did not parse would cost the looks, not the picture.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.line.set_style(style.progress_chars("━╸ "));
        }
    }

    fn load(&mut self, done: u64, of: u64) {
        self.line.set_length(of);
        self.line.set_position(done);
        if done == 0 {
            self.style("loading {bytes} of {total_bytes} {bar:30} {elapsed}");
        }
    }

    /// A picture has its steps one after the other, and then comes the next one's text or the decoder.
    fn step(&mut self, done: usize, of: usize) {
        let now = Instant::now();
        let began = self.step_began.replace(now);
        if let Some(began) = began {
            self.taken += now.duration_since(began);
            self.steps += 1;
        }
        let each = self.taken.checked_div(self.steps);
        self.line.set_length(of as u64);
        self.line.set_position(done as u64);
        self.line.set_message(pace(each, of.saturating_sub(done)));
        if began.is_none() {
            self.style("step {pos}/{len} {bar:30} {elapsed} · {msg} left");
        }
    }
}

impl Progress for Bar {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        match stage {
            Stage::Step { done, of } => {
                self.step(done, of);
                return self.flow();
            }
            Stage::Load { done, of } => self.load(done, of),
            Stage::TextEncoder => self.say("reading the prompt"),
            Stage::Vae => self.say("decoding"),
            // Stages that are added later need no words here to be cancelled.
            _ => {}
        }
        self.step_began = None;
        self.flow()
    }
}

/// `2.50 steps/s · 4 s`: the rate, and how long `left` more steps take; `4.00 s/step` where that is the number one can
/// picture.
fn pace(each: Option<Duration>, left: usize) -> String {
    let Some(each) = each.filter(|each| !each.is_zero()) else {
        return "– steps/s · –".to_owned();
    };
    let seconds = each.as_secs_f64();
    let rate = if seconds > 1.0 { format!("{seconds:.2} s/step") } else { format!("{:.2} steps/s", 1.0 / seconds) };
    let left = Duration::from_secs((seconds * left as f64).ceil() as u64);
    format!("{rate} · {:#}", HumanDuration(left))
}

/// Whether Ctrl-C was pressed.
#[derive(Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes Ctrl-C over: pressed once it asks the work to stop between two steps, pressed again it ends the program.
    fn watch(line: ProgressBar) -> Self {
        let pressed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&pressed);
        // Where no handler can be set, Ctrl-C ends the program at once, which is no worse.
        let _ = ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            line.suspend(|| super::note("stopping after this step; Ctrl-C again stops at once"));
        });
        Self(pressed)
    }

    /// An error once Ctrl-C was pressed.
    pub(super) fn check(&self) -> Result<()> {
        if self.pressed() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_numbers_one_can_picture() {
        assert_eq!(pace(Some(Duration::from_millis(400)), 10), "2.50 steps/s · 4s");
        assert_eq!(pace(Some(Duration::from_secs(4)), 30), "4.00 s/step · 2m");
        assert_eq!(pace(None, 8), "– steps/s · –");
        assert_eq!(pace(Some(Duration::ZERO), 8), "– steps/s · –");
    }

    #[test]
    fn only_steps_count_for_the_pace() {
        let mut bar = Bar::new();
        for stage in [Stage::TextEncoder, Stage::Step { done: 0, of: 4 }, Stage::Step { done: 1, of: 4 }, Stage::Vae] {
            assert!(bar.update(stage).is_continue());
        }
        let taken = bar.taken;
        std::thread::sleep(Duration::from_millis(5));
        assert!(bar.update(Stage::Step { done: 1, of: 4 }).is_continue());
        assert_eq!((bar.steps, bar.taken), (1, taken));
    }

    #[test]
    fn an_interrupt_stops_the_work() {
        let mut bar = Bar::new();
        assert!(bar.update(Stage::Step { done: 0, of: 2 }).is_continue());
        assert!(bar.interrupt().check().is_ok());
        bar.interrupt.0.store(true, Ordering::SeqCst);
        assert!(bar.update(Stage::Step { done: 1, of: 2 }).is_break());
        assert!(matches!(bar.interrupt().check(), Err(Error::Cancelled)));
    }
}
