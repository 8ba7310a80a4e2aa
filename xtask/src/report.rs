//! Counting what passed and what did not.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::say;

/// The checks of one run.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failures: Vec<String>,
}

impl Report {
    /// Runs one check and says how it went.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        let from = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                say::done(&format!("{name} ({:.1} s)", from.elapsed().as_secs_f32()));
                true
            }
            Err(error) => {
                say::failed(&format!("{name}: {error:#}"));
                self.failures.push(name.to_owned());
                false
            }
        }
    }

    /// Counts checks that another program made.
    pub fn count(&mut self, passed: usize, failed: usize, what: &str) {
        self.passed += passed;
        for _ in 0..failed {
            self.failures.push(what.to_owned());
        }
    }

    /// Prints the closing line.
    ///
    /// # Errors
    /// If a check failed, or there was none.
    pub fn close(self) -> Result<()> {
        for name in &self.failures {
            say::failed(name);
        }
        say::line(&format!("{} passed, {} failed", self.passed, self.failures.len()));
        if !self.failures.is_empty() || self.passed == 0 {
            bail!("not everything passed");
        }
        Ok(())
    }
}
