//! The independent tools. A missing tool is a failure: a test that does not run proves nothing.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a tool and returns (success, stdout and stderr together).
pub fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = raw(program, arguments, None);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Runs a tool that must succeed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let (ok, text) = run(program, arguments);
    assert!(ok, "{program} {arguments:?}\n{text}");
    text
}

pub fn raw(program: &str, arguments: &[&str], folder: Option<&Path>) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    command.output().unwrap_or_else(|e| panic!("{program} is needed for this test and cannot be run: {e}"))
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
