//! Differential execution: what a patch replaces is run beside the new image in an emulator, on generated inputs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::hotgraft::Hotgraft;
use crate::{command, python, root};

/// The emulator with its interpreter.
#[derive(Clone, Debug)]
pub struct Emulator {
    python: PathBuf,
}

/// What running one pair gave.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Execution {
    /// By function.
    pub functions: Vec<Function>,
    /// Faults that were put into the patch, to see that they are noticed.
    pub mutants: Mutants,
}

/// What running one function gave.
#[derive(Clone, Debug, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Inputs.
    pub inputs: u32,
    /// Calls and writes, over all inputs.
    pub events: u64,
    /// Inputs with which it ran to its end.
    pub returned: u32,
    /// Share of its code that ran.
    pub covered: f64,
    /// Inputs with which the two sides did not do the same.
    pub wrong_inputs: u32,
    /// The first of them.
    pub wrong: Vec<String>,
}

/// Faults put in, one at a time.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Mutants {
    /// How many.
    pub made: u32,
    /// How many of them changed what was seen.
    pub caught: u32,
    /// The others.
    pub missed: Vec<String>,
}

/// How much is run, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Inputs for each function.
    pub inputs: u32,
    /// Faults of each kind that are put into each function.
    pub mutants: u32,
    /// Hooks of the patch give variables their new initial values.
    pub repaired: bool,
}

impl Emulator {
    /// Makes it ready.
    ///
    /// # Errors
    /// If the packages cannot be had.
    pub fn open() -> Result<Self> {
        Ok(Self { python: python::emulator()? })
    }

    /// Runs every function of the patch on both sides.
    ///
    /// # Errors
    /// If the address space cannot be laid out, or the emulator fails.
    pub fn execute(&self, hotgraft: &Hotgraft, images: [&Path; 2], patch: &Path, amount: Amount) -> Result<Execution> {
        let Amount { inputs, mutants, repaired } = amount;
        let folder = tempfile::tempdir()?;
        let mut lay_out = hotgraft.command();
        lay_out.arg("lay-out").args(images).arg(patch).arg("-o").arg(folder.path());
        command::quiet(&mut lay_out)?;
        let mut run = Command::new(&self.python);
        run.arg("-B").arg(root::repository().join("testdata/emulation/execute.py")).arg(folder.path());
        run.args(["--inputs", &inputs.to_string(), "--mutants", &mutants.to_string()]);
        run.args(repaired.then_some("--repaired"));
        let done = command::finish(&mut run)?;
        ensure!(done.code == 0, "the emulator ended with {}: {}", done.code, done.stderr.trim());
        serde_json::from_str(&done.stdout).context("the emulator's report cannot be read")
    }
}

impl Execution {
    /// Demands that both sides did the same.
    ///
    /// # Errors
    /// With the first function and input for which they did not.
    pub fn judge(&self) -> Result<()> {
        for function in &self.functions {
            ensure!(
                function.wrong_inputs == 0,
                "{}: {} of {} inputs give something else; {}",
                function.name,
                function.wrong_inputs,
                function.inputs,
                function.wrong.join("; ")
            );
        }
        Ok(())
    }

    /// Functions, inputs, calls and writes, and the mean share of code that ran.
    pub fn summary(&self) -> String {
        let inputs: u32 = self.functions.iter().map(|f| f.inputs).sum();
        let events: u64 = self.functions.iter().map(|f| f.events).sum();
        let returned: u32 = self.functions.iter().map(|f| f.returned).sum();
        let covered: f64 = self.functions.iter().map(|f| f.covered).sum();
        format!(
            "{} functions, {inputs} runs ({returned} to the end), {events} calls and writes alike, {:.0} % of the code ran",
            self.functions.len(),
            100.0 * covered / self.functions.len().max(1) as f64
        )
    }
}
