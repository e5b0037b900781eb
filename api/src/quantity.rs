//! Durations (Go's `1m30s` or ISO-8601's `PT1M30S`) and sizes (Kubernetes quantities such as `64Mi`).

use std::time::Duration;

use serde::de::{Deserialize, Deserializer};

use crate::problem::{FieldPath, Problem, quoted};

/// Go's own limit, some 292 years: what is longer is a mistake, and would overflow timers.
const LONGEST_NANOS: u128 = i64::MAX as u128;

const SECOND: u128 = 1_000_000_000;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;
const DAY: u128 = 24 * HOUR;

/// Reads a duration; the problem names `path` and both ways of writing one.
pub fn duration(text: &str, path: &FieldPath) -> Result<Duration, Problem> {
    let read = match text.strip_prefix('P') {
        Some(rest) => iso_nanos(rest),
        None => go_nanos(text),
    };
    let problem = |message: String| Problem::error(path.clone(), message);
    let shown = quoted(text);
    let nanos = read.map_err(|wrong| match wrong {
        Wrong::Form => problem(format!("{shown} is no duration"))
            .hint("write it as `1m30s`, `300ms` (Go) or `PT1M30S`, `P1D` (ISO-8601)"),
        Wrong::Unit => problem(format!("{shown} has no unit")).hint(format!("write `{text}s` for seconds")),
        Wrong::Negative => problem(format!("{shown} is negative")).hint("write a duration of zero or more"),
        Wrong::Calendar => {
            problem(format!("{shown} counts years or months, which differ in length")).hint("count days: `P30D`")
        }
        Wrong::TooLarge => problem(format!("{shown} is longer than 292 years")).hint("write a shorter duration"),
    })?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| problem(format!("{shown} is longer than 292 years")))
}

/// Reads a size in bytes, a fraction of a byte rounded up as Kubernetes does; the problem names `path` and an example.
pub fn bytes(text: &str, path: &FieldPath) -> Result<u64, Problem> {
    let problem = |message: String| Problem::error(path.clone(), message);
    let shown = quoted(text);
    size(text).map_err(|wrong| match wrong {
        Wrong::Negative => problem(format!("{shown} is negative")).hint("write a size of zero or more"),
        Wrong::TooLarge => problem(format!("{shown} is more than 2^64 - 1 bytes")).hint("write a smaller size"),
        Wrong::Unit => {
            let number = text.trim_end_matches(['n', 'u', 'm']);
            problem(format!("{shown} counts fractions of a byte (`m` is a thousandth)"))
                .hint(format!("write `{number}M` or `{number}Mi`"))
        }
        Wrong::Form | Wrong::Calendar => {
            problem(format!("{shown} is no size")).hint("write it as `64Mi`, `1G`, `1e6` or a number of bytes")
        }
    })
}

/// Deserialises the text of a quantity, which may be written as a plain number.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Number(serde_json::Number),
    }
    Ok(Option::<Written>::deserialize(deserializer)?.map(|written| match written {
        Written::Text(text) => text,
        Written::Number(number) => number.to_string(),
    }))
}

/// Why a text is no duration or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Form,
    Unit,
    Negative,
    Calendar,
    TooLarge,
}

/// A decimal number as it is written: digits, and how many of them stand behind the point.
struct Decimal {
    digits: u128,
    scale: u32,
}

impl Decimal {
    /// Reads what `text` begins with, such as `1`, `1.5`, `.5` or `5.`, and gives back the rest.
    fn read<'a>(text: &'a str, points: &[char]) -> Result<(Self, &'a str), Wrong> {
        let is_digit = |c: char| c.is_ascii_digit();
        let whole_end = text.find(|c| !is_digit(c)).unwrap_or(text.len());
        let (whole, rest) = text.split_at(whole_end);
        let (fraction, rest) = match rest.strip_prefix(points) {
            Some(rest) => rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(Wrong::Form);
        }
        // Nothing written here needs more than 18 decimal places; what lies behind them is cut off.
        let fraction = fraction.get(..18).unwrap_or(fraction).trim_end_matches('0');
        let mut digits = 0u128;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let next = digits.checked_mul(10).and_then(|n| n.checked_add(u128::from(digit - b'0')));
            digits = next.ok_or(Wrong::TooLarge)?;
        }
        Ok((Self { digits, scale: fraction.len() as u32 }, rest))
    }

    /// This many `unit`s, a fraction cut off.
    fn times(&self, unit: u128) -> Result<u128, Wrong> {
        Ok(self.digits.checked_mul(unit).ok_or(Wrong::TooLarge)? / 10u128.pow(self.scale))
    }

    /// This many `unit`s, a fraction rounded up.
    fn times_up(&self, unit: u128) -> Result<u128, Wrong> {
        Ok(self.digits.checked_mul(unit).ok_or(Wrong::TooLarge)?.div_ceil(10u128.pow(self.scale)))
    }
}

fn add(sum: u128, more: u128) -> Result<u128, Wrong> {
    sum.checked_add(more).filter(|sum| *sum <= LONGEST_NANOS).ok_or(Wrong::TooLarge)
}

/// Go's `time.ParseDuration`, for durations that are not negative.
fn go_nanos(text: &str) -> Result<u128, Wrong> {
    if let Some(rest) = text.strip_prefix('-') {
        return Err(go_nanos(rest).map_or(Wrong::Form, |_| Wrong::Negative));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(Wrong::Form);
    }
    let mut sum = 0;
    while !rest.is_empty() {
        let (number, after) = Decimal::read(rest, &['.'])?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "" => return Err(Wrong::Unit),
            _ => return Err(Wrong::Form),
        };
        sum = add(sum, number.times(unit)?)?;
        rest = next;
    }
    Ok(sum)
}

/// ISO-8601 behind its `P`: weeks, days, hours, minutes and seconds, each at most once and in this order, the last of them
/// possibly with a fraction.
fn iso_nanos(text: &str) -> Result<u128, Wrong> {
    const DATE: &[(char, u128)] = &[('W', 7 * DAY), ('D', DAY)];
    const TIME: &[(char, u128)] = &[('H', HOUR), ('M', MINUTE), ('S', SECOND)];
    let (mut rest, mut units, mut in_time) = (text, DATE, false);
    let (mut sum, mut parts, mut fraction) = (0, 0, false);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T').filter(|_| !in_time) {
            (rest, units, in_time, parts) = (after, TIME, true, 0);
            continue;
        }
        if rest.starts_with('-') {
            return Err(Wrong::Negative);
        }
        let (number, after) = Decimal::read(rest, &['.', ','])?;
        let mut after = after.chars();
        let unit = after.next().ok_or(Wrong::Unit)?;
        if !in_time && matches!(unit, 'Y' | 'M') {
            return Err(Wrong::Calendar);
        }
        let at = units.iter().position(|(name, _)| *name == unit).ok_or(Wrong::Form)?;
        if fraction {
            return Err(Wrong::Form);
        }
        let (_, nanos) = units.get(at).ok_or(Wrong::Form)?;
        sum = add(sum, number.times(*nanos)?)?;
        (units, rest) = (units.get(at + 1..).unwrap_or_default(), after.as_str());
        (parts, fraction) = (parts + 1, number.scale > 0);
    }
    if parts == 0 { Err(Wrong::Form) } else { Ok(sum) }
}

/// A Kubernetes quantity as a whole number.
fn size(text: &str) -> Result<u64, Wrong> {
    if let Some(rest) = text.strip_prefix('-') {
        return Err(size(rest).map_or(Wrong::Form, |_| Wrong::Negative));
    }
    let (number, suffix) = Decimal::read(text.strip_prefix('+').unwrap_or(text), &['.'])?;
    let power = |base: u128, exponent: u32| base.checked_pow(exponent).ok_or(Wrong::TooLarge);
    let unit = match suffix {
        "" => 1,
        "k" => power(1000, 1)?,
        "M" => power(1000, 2)?,
        "G" => power(1000, 3)?,
        "T" => power(1000, 4)?,
        "P" => power(1000, 5)?,
        "E" => power(1000, 6)?,
        "Ki" => power(1024, 1)?,
        "Mi" => power(1024, 2)?,
        "Gi" => power(1024, 3)?,
        "Ti" => power(1024, 4)?,
        "Pi" => power(1024, 5)?,
        "Ei" => power(1024, 6)?,
        "n" | "u" | "m" => return Err(Wrong::Unit),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E']).ok_or(Wrong::Form)?.parse().map_err(|_| Wrong::Form)?;
            if number.digits == 0 {
                return Ok(0);
            }
            let exponent = exponent.checked_sub_unsigned(number.scale).ok_or(Wrong::TooLarge)?;
            let whole = Decimal { digits: number.digits, scale: 0 };
            let value = match u32::try_from(exponent) {
                Ok(exponent) => whole.times(power(10, exponent)?)?,
                Err(_) => match 10u128.checked_pow(exponent.unsigned_abs()) {
                    Some(divisor) => number.digits.div_ceil(divisor),
                    None => 1,
                },
            };
            return u64::try_from(value).map_err(|_| Wrong::TooLarge);
        }
    };
    u64::try_from(number.times_up(unit)?).map_err(|_| Wrong::TooLarge)
}

#[cfg(test)]
mod tests;
