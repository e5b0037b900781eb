//! A strict reader of JSON text that copies nothing it is not asked for.

use std::borrow::Cow;

use super::{DEPTH, Datum};

/// Why a text is no JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(crate) struct Malformed {
    /// Where, in bytes.
    pub(crate) at: usize,
    /// What is wrong there.
    pub(crate) what: &'static str,
}

/// The start of a value, or all of a scalar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token<'a> {
    /// `{`
    Object,
    /// `[`
    Array,
    /// A string's content, and whether it has escapes.
    Text(&'a str, bool),
    /// A number, and whether it is written without fraction and exponent.
    Number(&'a str, bool),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// Reads a text from front to back.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

type Scan<T> = Result<T, Malformed>;

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the scanner is, in bytes; the caller has checked that a `u32` holds it.
    pub(crate) fn offset(&self) -> u32 {
        u32::try_from(self.at).unwrap_or(u32::MAX)
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(&mut self) -> Scan<()> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { self.fail("more than one value") }
    }

    fn fail<T>(&self, what: &'static str) -> Scan<T> {
        Err(Malformed { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// The next value, or the start of it.
    pub(crate) fn token(&mut self) -> Scan<Token<'a>> {
        self.space();
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                let (text, escaped) = self.string()?;
                Ok(Token::Text(text, escaped))
            }
            Some(b'{') => {
                self.at += 1;
                Ok(Token::Object)
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Token::Array)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Token::Bool(true)),
            Some(b'f') => self.literal("false", Token::Bool(false)),
            Some(b'n') => self.literal("null", Token::Null),
            Some(_) => self.fail("no JSON value"),
            None => self.fail("the text ends too early"),
        }
    }

    fn literal(&mut self, word: &str, token: Token<'a>) -> Scan<Token<'a>> {
        if self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(token)
        } else {
            self.fail("no JSON value")
        }
    }

    /// The members of an object whose `{` was read: the key and, to be read by `member`, the value.
    pub(crate) fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, Cow<'a, str>, usize) -> Scan<()>,
    ) -> Scan<()> {
        let depth = self.deeper(depth)?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail("no key");
            }
            self.at += 1;
            let (key, escaped) = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.fail("no colon after a key");
            }
            self.at += 1;
            member(self, if escaped { Cow::Owned(unescape(key)) } else { Cow::Borrowed(key) }, depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail("neither comma nor brace after a member"),
            }
        }
    }

    /// The items of an array whose `[` was read, each to be read by `item`.
    pub(crate) fn array(&mut self, depth: usize, mut item: impl FnMut(&mut Self, u64, usize) -> Scan<()>) -> Scan<()> {
        let depth = self.deeper(depth)?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let mut index = 0;
        loop {
            item(self, index, depth)?;
            index += 1;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail("neither comma nor bracket after an item"),
            }
        }
    }

    fn deeper(&self, depth: usize) -> Scan<usize> {
        if depth < DEPTH { Ok(depth + 1) } else { self.fail("nested deeper than 128 levels") }
    }

    /// Checks a value and leaves it behind.
    pub(crate) fn skip(&mut self, depth: usize) -> Scan<()> {
        match self.token()? {
            Token::Object => self.object(depth, |scanner, _, depth| scanner.skip(depth)),
            Token::Array => self.array(depth, |scanner, _, depth| scanner.skip(depth)),
            _ => Ok(()),
        }
    }

    /// A scalar that was just read, as it is kept. Containers are the caller's.
    pub(crate) fn datum(&self, token: Token<'a>) -> Datum {
        match token {
            Token::Text(text, true) => Datum::Unescaped(unescape(text).into()),
            Token::Text(text, false) => {
                let end = self.offset().saturating_sub(1);
                Datum::Text(end.saturating_sub(u32::try_from(text.len()).unwrap_or(u32::MAX)), end)
            }
            Token::Number(text, whole) => number(text, whole),
            Token::Bool(value) => Datum::Bool(value),
            Token::Null => Datum::Null,
            Token::Object | Token::Array => Datum::Missing,
        }
    }

    fn number(&mut self) -> Scan<Token<'a>> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("no digit after a minus"),
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        if let Some(b'0'..=b'9') = self.peek() {
            return self.fail("a number with a leading zero");
        }
        Ok(Token::Number(self.slice(start, self.at), whole))
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Scan<()> {
        let start = self.at;
        self.digits();
        if self.at == start { self.fail("a number without a digit where one must be") } else { Ok(()) }
    }

    /// The content of a string whose first quote was read, and whether it has escapes.
    fn string(&mut self) -> Scan<(&'a str, bool)> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((self.slice(start, self.at - 1), escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail("a control character in a string"),
                None => return self.fail("the text ends too early"),
            }
        }
    }

    fn escape(&mut self) -> Scan<()> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                match self.hex()? {
                    0xDC00..=0xDFFF => self.fail("half of a surrogate pair"),
                    0xD800..=0xDBFF => {
                        if !self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u")) {
                            return self.fail("half of a surrogate pair");
                        }
                        self.at += 2;
                        if matches!(self.hex()?, 0xDC00..=0xDFFF) {
                            Ok(())
                        } else {
                            self.fail("half of a surrogate pair")
                        }
                    }
                    _ => Ok(()),
                }
            }
            _ => self.fail("an unknown escape"),
        }
    }

    fn hex(&mut self) -> Scan<u32> {
        match self.text.as_bytes().get(self.at..self.at + 4) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {
                self.at += 4;
                Ok(hex(self.slice(self.at - 4, self.at)))
            }
            _ => self.fail("an unknown escape"),
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// How many bytes come before the first quote, backslash or control character: eight at a time, where the lowest marked byte
/// is always a true hit.
fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * 0x22);
        let slash = word ^ (ONES * 0x5C);
        let hit = (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let hit = hit & HIGHS;
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
}

fn hex(digits: &str) -> u32 {
    u32::from_str_radix(digits, 16).unwrap_or_default()
}

fn number(text: &str, whole: bool) -> Datum {
    if whole && text != "-0" {
        if let Ok(int) = text.parse() {
            return Datum::Int(int);
        }
        if let Ok(uint) = text.parse() {
            return Datum::UInt(uint);
        }
    }
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() => Datum::Double(double),
        _ => Datum::OutOfRange,
    }
}

/// Replaces the escapes of a string that was checked when it was scanned.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        let replaced = match chars.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let unit = |at: usize| after.get(at..at + 4).map_or(0, hex);
                let (code, length) = match unit(1) {
                    high @ 0xD800..=0xDBFF => (0x1_0000 + ((high - 0xD800) << 10) + unit(7).saturating_sub(0xDC00), 11),
                    code => (code, 5),
                };
                chars = after.get(length..).unwrap_or_default().chars();
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            Some(other) => other,
            None => break,
        };
        out.push(replaced);
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}
