//! What a person sees while a picture is made, and Ctrl-C.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
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
    /// When the first step began: the rate is of steps alone, without the text encoder.
    steps_began: Option<Instant>,
}

impl Bar {
    /// Shows that the model is being loaded, and takes Ctrl-C over.
    pub(super) fn new() -> Self {
        let line = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        line.enable_steady_tick(Duration::from_millis(100));
        let bar = Self { interrupt: Interrupt::watch(line.clone()), line, steps_began: None };
        bar.say("loading the model");
        bar
    }

    /// An error once Ctrl-C was pressed.
    pub(super) fn check(&self) -> Result<()> {
        if self.interrupt.pressed() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Takes the line away, so that what follows begins at the margin.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }

    fn say(&self, words: &'static str) {
        self.style("{spinner} {msg} · {elapsed}");
        self.line.set_message(words);
    }

    fn style(&self, template: &str) {
        // The templates are this file's own; one that did not parse would cost the looks, not the picture.
        if let Ok(style) = ProgressStyle::with_template(template) {
            let began = self.steps_began;
            let rate = move |state: &ProgressState, out: &mut dyn Write| {
                let taken = began.map_or(Duration::ZERO, |began| began.elapsed());
                let _ = out.write_str(&rate(state.pos(), taken));
            };
            self.line.set_style(style.with_key("rate", rate).progress_chars("━╸ "));
        }
    }
}

impl Progress for Bar {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        match stage {
            Stage::TextEncoder => self.say("reading the prompt"),
            Stage::Step { done, of } => {
                if done == 0 || self.steps_began.is_none() {
                    self.steps_began = Some(Instant::now());
                    self.line.reset_eta();
                    self.line.set_length(of as u64);
                    self.style("step {pos}/{len} {bar:30} {elapsed} · {rate} · {eta} left");
                }
                self.line.set_position(done as u64);
            }
            Stage::Vae => self.say("decoding"),
            // Stages that are added later need no words here to be cancelled.
            #[allow(unreachable_patterns)]
            _ => {}
        }
        if self.interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// `2.50 steps/s`, or `4.00 s/step` where that is the number one can picture.
fn rate(steps: u64, taken: Duration) -> String {
    let taken = taken.as_secs_f64();
    match steps as f64 / taken {
        rate if steps == 0 || !rate.is_finite() => "– steps/s".to_owned(),
        rate if rate < 1.0 => format!("{:.2} s/step", 1.0 / rate),
        rate => format!("{rate:.2} steps/s"),
    }
}

/// Whether Ctrl-C was pressed.
struct Interrupt(Arc<AtomicBool>);

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

    fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_the_number_one_can_picture() {
        assert_eq!(rate(5, Duration::from_secs(2)), "2.50 steps/s");
        assert_eq!(rate(2, Duration::from_secs(8)), "4.00 s/step");
        assert_eq!(rate(0, Duration::from_secs(8)), "– steps/s");
        assert_eq!(rate(3, Duration::ZERO), "– steps/s");
    }

    #[test]
    fn an_interrupt_stops_the_work() {
        let mut bar = Bar::new();
        assert!(bar.update(Stage::Step { done: 0, of: 2 }).is_continue());
        assert!(bar.check().is_ok());
        bar.interrupt.0.store(true, Ordering::SeqCst);
        assert!(bar.update(Stage::Step { done: 1, of: 2 }).is_break());
        assert!(matches!(bar.check(), Err(Error::Cancelled)));
    }
}
