//! Pure functions from objects to text.

mod backups;
mod mends;
mod numbers;
mod regions;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod why;

pub use backups::backups;
pub use numbers::{ago, bytes, count};
pub use regions::regions;
pub use status::status;
pub use table::Table;
pub use why::why;

use crate::source::Unreadable;
use crate::style;

/// The line of an object that cannot be decoded.
pub fn unreadable(kind: &str, what: &Unreadable) -> String {
    note(&format!(
        "{kind} {} cannot be read, neither here nor by the operator: {}",
        what.name, what.error
    ))
}

/// A line about something that is not as it should be.
pub fn note(text: &str) -> String {
    format!("{} {text}\n", style::error("!"))
}

/// Columns that a text takes on a terminal: escape sequences take none.
fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .count()
}
