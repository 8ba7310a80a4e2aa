//! What xtask prints: steps, results, the commands themselves.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place of xtask that prints")]

use std::io::IsTerminal;

/// Is the output to be coloured?
pub fn coloured() -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    !plain && (forced || std::io::stdout().is_terminal())
}

fn paint(code: &str, text: &str) -> String {
    if coloured() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The headline of a step.
pub fn step(text: &str) {
    println!("{}", paint("1;36", &format!("── {text}")));
}

/// A command that is about to run.
pub fn command(text: &str) {
    println!("{}", paint("1", &format!("$ {text}")));
}

/// Something that went as it should.
pub fn done(text: &str) {
    println!("{} {text}", paint("32", "ok"));
}

/// Something that did not.
pub fn failed(text: &str) {
    println!("{} {text}", paint("31", "FAILED"));
}

/// Plain output.
pub fn line(text: &str) {
    println!("{text}");
}

/// A remark beside the result.
pub fn note(text: &str) {
    eprintln!("{text}");
}
