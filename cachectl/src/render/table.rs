//! Columns as wide as their widest cell.

use super::width;

/// Rows of cells; a cell may carry colours, which take no room.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Columns whose title begins with `>` are aligned to the right.
    pub fn new(titles: &[&str]) -> Self {
        Table {
            right: titles.iter().map(|t| t.starts_with('>')).collect(),
            rows: vec![
                titles
                    .iter()
                    .map(|t| t.trim_start_matches('>').to_string())
                    .collect(),
            ],
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// With two spaces before each line and between columns, the titles dimmed, no space at the ends.
    pub fn lines(&self) -> String {
        let columns = self.right.len();
        let widths: Vec<usize> = (0..columns)
            .map(|c| {
                self.rows
                    .iter()
                    .filter_map(|r| r.get(c))
                    .map(|cell| width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c] - width(cell));
                let shown = if index == 0 {
                    crate::style::dim(cell)
                } else {
                    cell.clone()
                };
                line.push_str("  ");
                if self.right[c] {
                    line.push_str(&pad);
                    line.push_str(&shown);
                } else {
                    line.push_str(&shown);
                    line.push_str(&pad);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}
