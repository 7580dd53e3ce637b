//! Much output, of which every line is known: what is lost, doubled or mixed up is seen.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read};

/// How many lines [`SCRIPT`] prints.
pub const LINES: usize = 100_000;
/// How many bytes that is.
pub const BYTES: usize = LINES * 998;
/// Prints 100 MB.
pub const SCRIPT: &str = "yes $(printf %0990d 0) | head -n 100000 | cat -n";

/// One of the lines, from 1.
fn line(number: usize) -> String {
    format!("{number:6}\t{:0990}", 0)
}

/// Checks that these are the lines from `first` on, each once and in order; how many they are.
pub fn check(text: impl Read, first: usize) -> Result<usize> {
    let mut lines = BufReader::new(text).lines();
    let mut number = first;
    while let Some(got) = lines.next().transpose()? {
        let wanted = line(number);
        ensure!(got == wanted, "{:?}… instead of line {number}", got.chars().take(40).collect::<String>());
        number += 1;
    }
    Ok(number - first)
}

/// Checks that this is all of it.
pub fn complete(text: impl Read) -> Result<()> {
    let lines = check(text, 1).context("the output")?;
    ensure!(lines == LINES, "{lines} lines instead of {LINES}");
    Ok(())
}
