//! What the pages of the docs show, for tests that check or run it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::evoke::checkout;

/// The file of a page of `docs/`.
pub fn page(name: &str) -> PathBuf {
    checkout().join("docs").join(format!("{name}.md"))
}

/// The fenced blocks of a page that say they are in `language`, in order.
///
/// # Panics
/// When there is no such page.
pub fn blocks(page: &Path, language: &str) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim_start()) {
            (None, mark) if mark == fence => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// The ```yaml blocks of a page that are manifests, in order.
///
/// # Panics
/// When there is no such page.
pub fn manifests(page: &Path) -> Vec<String> {
    blocks(page, "yaml").into_iter().filter(|block| block.contains("apiVersion:")).collect()
}
