//! Colours, dropped by `anstream` where the output is no terminal or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

pub fn bold(text: impl std::fmt::Display) -> String {
    paint(Style::new().bold(), text)
}

pub fn dim(text: impl std::fmt::Display) -> String {
    paint(Style::new().dimmed(), text)
}

pub fn good(text: impl std::fmt::Display) -> String {
    paint(AnsiColor::Green.on_default(), text)
}

pub fn warn(text: impl std::fmt::Display) -> String {
    paint(AnsiColor::Yellow.on_default(), text)
}

pub fn error(text: impl std::fmt::Display) -> String {
    paint(AnsiColor::Red.on_default().bold(), text)
}
