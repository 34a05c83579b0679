//! Lines that tell how far something is: one line a stage, rewritten in place on a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::style;

/// One stage under way.
pub struct Stage {
    text: String,
    begun: Instant,
    live: bool,
    shown: String,
}

impl Stage {
    pub fn begin(text: impl Into<String>) -> Self {
        let mut stage = Stage {
            text: text.into(),
            begun: Instant::now(),
            live: std::io::stdout().is_terminal(),
            shown: String::new(),
        };
        stage.detail("");
        stage
    }

    /// What is to be seen beside the stage for now; only on a terminal.
    pub fn detail(&mut self, detail: &str) {
        if !self.live || (self.shown == detail && !detail.is_empty()) {
            return;
        }
        self.shown = detail.to_string();
        anstream::print!(
            "\r\x1b[2K  {} {}  {}",
            style::warn("…"),
            self.text,
            style::dim(detail)
        );
        flush();
    }

    fn end(self, mark: String, detail: &str) {
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        let took = format!("{:.1} s", self.begun.elapsed().as_secs_f64());
        let detail = if detail.is_empty() {
            took
        } else {
            format!("{detail}, {took}")
        };
        anstream::println!("{clear}  {mark} {}  {}", self.text, style::dim(detail));
        flush();
    }

    pub fn done(self, detail: &str) {
        self.end(style::good("✓"), detail);
    }

    pub fn failed(self) {
        self.end(style::error("✗"), "failed");
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn flush() {
    // A closed pipe ends the program at its next print.
    let _ = std::io::stdout().flush();
}
