//! Pure functions from objects to text.

mod numbers;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod why;

pub use numbers::{ago, bytes, count};
pub use status::status;
pub use table::Table;
pub use why::why;

/// Columns that a text takes on a terminal: escape sequences take none.
fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .count()
}
