//! Commands read ahead of their execution: their rows of the table, where their keys live, and what they will touch fetched from memory.

use super::dispatch::look_up;
use super::table::Entry;
use crate::limits::COMMANDS_AHEAD;
use crate::protocol::{Args, Frames};
use crate::store::{Point, Store};

/// A command to be executed, with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub args: Args<'a>,
    /// Its row; None: not looked for, or not there.
    pub entry: Option<&'static Entry>,
    /// Where its first key lives.
    pub point: Option<Point>,
}

impl<'a> Request<'a> {
    /// A command of which nothing but its row is looked for.
    pub fn new(args: Args<'a>) -> Self {
        Self {
            args,
            entry: look_up(args),
            point: None,
        }
    }

    /// Its first key, if it has one.
    pub fn key(&self) -> &'a [u8] {
        let first = self.entry.map_or(0, |e| e.command.keys.first);
        self.args.get(first as usize).unwrap_or_default()
    }
}

/// See the module's text. Kept by a thread, to be used again.
#[derive(Debug, Default)]
pub struct Ahead {
    frames: Frames,
    found: Vec<(Option<&'static Entry>, Option<Point>)>,
    points: Vec<Point>,
}

impl Ahead {
    /// Reads the commands from `at` on, up to a limit, and fetches what their first keys name. Gives how many there are.
    pub fn read(&mut self, store: &Store, input: &[u8], at: usize, bulk_max: usize) -> usize {
        self.clear();
        self.add(store, input, at, COMMANDS_AHEAD, bulk_max);
        self.fetch(store);
        self.count()
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        self.found.clear();
        self.points.clear();
    }

    /// How many commands there are.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Reads up to `max` commands from `at` on, after those that were read before.
    pub fn add(&mut self, store: &Store, input: &[u8], at: usize, max: usize, bulk_max: usize) {
        self.frames.read(input, at, max, bulk_max);
        for i in self.count()..self.frames.count() {
            let request = Request::new(self.frames.args(input, i));
            let has_key = request.entry.is_some_and(|e| e.command.keys.first > 0);
            let point = has_key.then(|| store.point(request.key()));
            self.points.extend(point);
            self.found.push((request.entry, point));
        }
    }

    /// Fetches what the first keys of all commands name.
    pub fn fetch(&self, store: &Store) {
        // A single one would wait for memory here as long as there.
        if self.points.len() > 1 {
            store.prefetch(&self.points);
        }
    }

    /// Where a command starts and ends in the input.
    pub fn span(&self, i: usize) -> (usize, usize) {
        self.frames.span(i)
    }

    /// A command, given the input that it was read from.
    pub fn request<'a>(&'a self, input: &'a [u8], i: usize) -> Request<'a> {
        let (entry, point) = self.found[i];
        Request {
            args: self.frames.args(input, i),
            entry,
            point,
        }
    }
}
