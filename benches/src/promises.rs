//! What the project promises beside what a bench found.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use crate::measure::Outcome;

/// The promises that did not hold.
#[derive(Debug, Default)]
pub struct Promises {
    broken: Vec<String>,
}

impl Promises {
    /// Prints a figure beside the least that it is to be. One that is no number was not measured, such as for want of a tool: it breaks
    /// nothing, and is said not to be measured.
    pub fn at_least(&mut self, what: impl Into<String>, found: f64, least: f64) {
        println!("{}", self.line(what.into(), found, "at least", least, found < least));
    }

    /// Prints a figure beside the most that it is to be, in the same way.
    pub fn at_most(&mut self, what: impl Into<String>, found: f64, most: f64) {
        println!("{}", self.line(what.into(), found, "at most", most, found > most));
    }

    fn line(&mut self, what: String, found: f64, bound: &str, limit: f64, is_broken: bool) -> String {
        if found.is_nan() {
            return format!("{what}: not measured, {bound} {limit} promised");
        }
        let verdict = if is_broken { "NOT kept" } else { "kept" };
        let line = format!("{what}: {found:.2}, {bound} {limit} promised: {verdict}");
        if is_broken {
            self.broken.push(what);
        }
        line
    }

    /// The end of a bench.
    ///
    /// # Errors
    /// When one is broken.
    pub fn end(self) -> Outcome<()> {
        if self.broken.is_empty() { Ok(()) } else { Err(format!("not as promised: {}", self.broken.join("; ")).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_neither_kept_nor_broken() {
        let mut promises = Promises::default();
        let mut line = |found: f64| promises.line("a / b".to_owned(), found, "at least", 0.8, found < 0.8);
        assert_eq!(line(f64::NAN), "a / b: not measured, at least 0.8 promised");
        assert_eq!(line(0.9), "a / b: 0.90, at least 0.8 promised: kept");
        assert!(promises.end().is_ok());

        let mut promises = Promises::default();
        let line = promises.line("a / b".to_owned(), 0.7, "at least", 0.8, true);
        assert_eq!(line, "a / b: 0.70, at least 0.8 promised: NOT kept");
        assert_eq!(promises.end().unwrap_err().to_string(), "not as promised: a / b");
    }
}
