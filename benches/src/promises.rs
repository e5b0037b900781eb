//! What the project promises beside what a bench found.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use crate::measure::Outcome;

/// The promises that did not hold.
#[derive(Debug, Default)]
pub struct Promises {
    broken: Vec<String>,
}

impl Promises {
    /// Prints a figure beside the least that it is to be. One that was not measured, which is no number, breaks nothing.
    pub fn at_least(&mut self, what: impl Into<String>, found: f64, least: f64) {
        self.say(what.into(), found, "at least", least, found < least);
    }

    /// Prints a figure beside the most that it is to be.
    pub fn at_most(&mut self, what: impl Into<String>, found: f64, most: f64) {
        self.say(what.into(), found, "at most", most, found > most);
    }

    fn say(&mut self, what: String, found: f64, bound: &str, limit: f64, is_broken: bool) {
        let verdict = if is_broken { "NOT kept" } else { "kept" };
        println!("{what}: {found:.2}, {bound} {limit} promised: {verdict}");
        if is_broken {
            self.broken.push(what);
        }
    }

    /// The end of a bench.
    ///
    /// # Errors
    /// When one is broken.
    pub fn end(self) -> Outcome<()> {
        if self.broken.is_empty() { Ok(()) } else { Err(format!("not as promised: {}", self.broken.join("; ")).into()) }
    }
}
