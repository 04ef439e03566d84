//! Progress for people: a bar on a terminal, a line every 30 seconds elsewhere. Consumes events, decides nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::Output;
use crate::model::event::{Event, Events};
use crate::model::size::ByteSize;

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(30);

struct Screen {
    output: Output,
    bar: Option<ProgressBar>,
    step: String,
    meter: ProgressBar,
    next_line: Duration,
}

/// Events shown on standard error as `output` allows.
pub fn on_screen(output: &Output) -> Events {
    let screen = Mutex::new(Screen {
        output: output.clone(),
        bar: None,
        step: String::new(),
        meter: ProgressBar::hidden(),
        next_line: LINE_EVERY,
    });
    Events::to(move |event| screen.lock().unwrap_or_else(PoisonError::into_inner).show(event))
}

impl Screen {
    fn show(&mut self, event: Event) {
        match event {
            Event::Step { text } => self.begin(text),
            Event::Progress { bytes, expected_bytes, rows } => self.advance(bytes, expected_bytes, rows),
            Event::Note { text } => self.say(&text),
            Event::Found { finding } => self.say(&format!("{}: {}", finding.severity, finding.message)),
        }
    }

    fn begin(&mut self, text: String) {
        self.clear();
        self.step = text;
        self.meter = ProgressBar::hidden();
        self.next_line = LINE_EVERY;
        if !self.output.bars {
            self.output.talk(&self.step);
            return;
        }
        let bar = ProgressBar::new_spinner().with_message(self.step.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64, expected: Option<u64>, rows: u64) {
        match &self.bar {
            Some(bar) => {
                if let Some(expected) = expected.filter(|_| bar.length().is_none()) {
                    bar.set_length(expected);
                    bar.set_style(style());
                }
                bar.set_position(bytes);
                bar.set_prefix(format!("{rows} rows"));
            }
            None => self.line(bytes, expected, rows),
        }
    }

    fn line(&mut self, bytes: u64, expected: Option<u64>, rows: u64) {
        self.meter.set_position(bytes);
        if self.meter.elapsed() < self.next_line {
            return;
        }
        self.next_line += LINE_EVERY;
        let rate = bytes as f64 / self.meter.elapsed().as_secs_f64().max(0.001);
        let mut text = format!("{}: {} and {rows} rows", self.step, ByteSize(bytes));
        if let Some(expected) = expected.filter(|expected| *expected > bytes) {
            let percent = bytes.saturating_mul(100) / expected;
            let left = (expected - bytes) as f64 / rate.max(1.0);
            text.push_str(&format!(" of about {} ({percent} %), {left:.0} s left", ByteSize(expected)));
        }
        text.push_str(&format!(", {}/s", ByteSize(rate as u64)));
        self.output.talk(&text);
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.talk(text)),
            None => self.output.talk(text),
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{msg} {bar:30} {percent:>3} % {bytes}/{total_bytes} {prefix} {bytes_per_sec} {eta} left",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}
