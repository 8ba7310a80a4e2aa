//! What scanners are told of the machine while the service is patched: from its memory, through a catalog.

use std::fs;

use anyhow::{Result, ensure};

use super::Demo;
use crate::wine::{self, Wine};

/// The fix of the demo.
const CVE: &str = "CVE-2026-0001";

impl Demo {
    /// A catalog with the old build as its baseline and the signed patch as its first hotpatch.
    pub(super) fn publish(&self) -> Result<()> {
        self.stage.step("The vendor's catalog: a baseline, and the hotpatch on it");
        let keys = ["--signer", "key.pem,cert.pem"];
        let init = ["release", "init", "catalog", "--product", "Service", "--publisher", "https://service.example/"];
        self.tool(&[&init[..], &keys, &["--now", "2026-01-13"]].concat(), 0)?;
        let baseline = ["release", "add-baseline", "catalog", "--id", "2026-01", "--build", "1.0"];
        let until = ["--image", "old/service.exe", "--supported-until", "2026-10-13", "--date", "2026-01-13"];
        self.tool(&[&baseline[..], &until].concat(), 0)?;
        let hotpatch = ["release", "add-hotpatch", "catalog", "--id", "2026-02", "--build", "1.0.1", "--sequence", "1"];
        let pair = ["--pair", "old/service.exe", "new/service.exe", "--signed", "service.signed.dll"];
        let facts = ["--kb", "KB5000001", "--cve", CVE, "--date", "2026-02-10"];
        self.tool(&[&hotpatch[..], &pair, &facts].concat(), 0)?;
        self.tool(&[&["release", "publish", "catalog"][..], &keys, &["--now", "2026-02-10"]].concat(), 0)?;
        Ok(())
    }

    /// What the machine says of itself comes to this state of the fix, and to this next step.
    pub(super) fn told(&self, wine: &Wine, state: &str, action: &str) -> Result<()> {
        let machine = format!("{state}.json");
        let installed = wine::path(&self.work.join("old"));
        let arguments = ["release", "observe", &installed, "--machine", "demo", "-o", &machine];
        self.windows_tool(wine, &arguments, 0)?;
        let about = ["catalog", "--root", "catalog/root.json", "--now", "2026-02-11", "--machine", &machine];
        // Wine's own services are of no product; those of the system on Windows are not either.
        let plan = self.tool(&[&["release", "plan"][..], &about, &["--format", "text"]].concat(), 0)?;
        ensure!(plan.stdout.contains(&format!("demo: {action}")), "the next step is not {action}\n{}", plan.stdout);
        let export = self.tool(&[&["release", "export"][..], &about, &["--format", "jsonl"]].concat(), 0)?;
        let stated = format!("\"state\":\"{state}\"");
        ensure!(
            export.stdout.lines().any(|line| line.contains(CVE) && line.contains(&stated)),
            "{CVE} is not {state}\n{}",
            export.stdout
        );
        ensure!(fs::metadata(self.work.join(machine)).is_ok_and(|file| file.len() > 0), "nothing was observed");
        Ok(())
    }
}
