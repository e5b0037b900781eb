//! What functions write on their standard output and error, line by line.

use std::collections::VecDeque;
use std::sync::Arc;

use evoke_api::names::ObjectName;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A longer line is handed on in pieces.
const LINE_BYTES: usize = 8 * 1024;
/// How much of the last output an error tells.
const TAIL_LINES: usize = 5;
const TAIL_LINE_CHARS: usize = 200;

/// Takes the lines that functions write.
pub trait Output: Send + Sync {
    /// Takes one line, without its end. Called in order for each function and stream; a call that takes its time slows the
    /// function down, so that nothing is lost and nothing piles up.
    fn line(&self, function: &ObjectName, line: &str);
}

/// Logs the lines, with the function's name in front, under the target `evoke::function::output`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOutput;

impl Output for LogOutput {
    fn line(&self, function: &ObjectName, line: &str) {
        tracing::info!(target: "evoke::function::output", "{function} | {line}");
    }
}

/// The last lines of a function's output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(TAIL_LINE_CHARS).collect());
    }

    /// `; last output: ...`, or that there was none.
    pub(crate) fn told(&self) -> String {
        let lines = self.0.lock();
        if lines.is_empty() {
            return "; it wrote nothing".into();
        }
        format!("; last output: {}", lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" | "))
    }
}

/// Hands on everything that `from` gives, until its end.
pub(crate) async fn relay(from: impl AsyncRead + Unpin, name: ObjectName, to: Arc<dyn Output>, tail: Tail) {
    let mut from = BufReader::with_capacity(LINE_BYTES, from);
    let mut line = Vec::new();
    let give = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        tail.push(text);
        to.line(&name, text);
        line.clear();
    };
    loop {
        let chunk = match from.fill_buf().await {
            Ok(chunk) if !chunk.is_empty() => chunk,
            // The end, or a pipe that broke, which is an end as well.
            Ok(_) | Err(_) => break,
        };
        let room = &chunk[..chunk.len().min(LINE_BYTES - line.len())];
        let end = room.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&room[..end.unwrap_or(room.len())]);
        let used = end.map_or(room.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() || line.len() == LINE_BYTES {
            give(&mut line);
        }
    }
    if !line.is_empty() {
        give(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Output for Lines {
        fn line(&self, function: &ObjectName, line: &str) {
            self.0.lock().push(format!("{function}: {line}"));
        }
    }

    async fn lines(input: &[u8]) -> (Vec<String>, Tail) {
        let (output, tail) = (Arc::new(Lines::default()), Tail::default());
        relay(input, ObjectName::new("a", "f"), output.clone(), tail.clone()).await;
        let lines = std::mem::take(&mut *output.0.lock());
        (lines, tail)
    }

    #[tokio::test]
    async fn lines_come_with_the_functions_name_and_without_their_ends() {
        let (lines, _) = lines(b"one\r\n\ntwo").await;
        assert_eq!(lines, ["a/f: one", "a/f: ", "a/f: two"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_nothing_of_it_is_lost() {
        let (lines, _) = lines(&[b'x'; 3 * LINE_BYTES + 5]).await;
        assert_eq!(lines.len(), 4);
        assert_eq!(lines.iter().map(|l| l.len() - "a/f: ".len()).sum::<usize>(), 3 * LINE_BYTES + 5);
    }

    #[tokio::test]
    async fn what_is_no_text_is_shown_all_the_same() {
        let (lines, _) = lines(b"\xff\xfe!\n").await;
        assert_eq!(lines, ["a/f: \u{fffd}\u{fffd}!"]);
    }

    #[tokio::test]
    async fn the_tail_holds_the_last_lines() {
        let (_, tail) = lines(b"1\n2\n3\n4\n5\n6\n").await;
        assert_eq!(tail.told(), "; last output: 2 | 3 | 4 | 5 | 6");
        assert_eq!(Tail::default().told(), "; it wrote nothing");
    }
}
