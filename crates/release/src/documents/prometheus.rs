//! Prometheus text: what a dashboard counts.

use super::Facts;
use crate::truth::State;
use std::fmt::Write;

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text.
pub fn document(facts: &Facts<'_>) -> Vec<u8> {
    let mut out = String::new();
    let product = label(&facts.catalog.product);
    let head = |out: &mut String, name: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    };
    head(&mut out, "hotgraft_cve_state", "1 for the state of a CVE on a machine, 0 for the others.");
    for subject in facts.subjects {
        let machine = label(&subject.truth.machine);
        for finding in &subject.truth.findings {
            for state in State::ALL {
                let value = u8::from(finding.state == state);
                let (cve, state) = (label(&finding.cve), state.name());
                let _ = writeln!(
                    out,
                    "hotgraft_cve_state{{product=\"{product}\",machine=\"{machine}\",cve=\"{cve}\",state=\"{state}\"}} {value}"
                );
            }
        }
    }
    type Value<'a> = &'a dyn Fn(&super::Subject) -> u64;
    let gauges: [(&str, &str, Value<'_>); 5] = [
        ("hotgraft_open_cves", "CVEs that a machine is open to, or that are not known to be fixed.", &|s| {
            s.plan.open.len() as u64
        }),
        ("hotgraft_baselines_behind", "Baselines that a machine is behind.", &|s| s.plan.baselines_behind as u64),
        ("hotgraft_hotpatches_behind", "Hotpatches of its baseline that a machine does not have.", &|s| {
            s.plan.hotpatches_behind as u64
        }),
        ("hotgraft_restart_needed", "1 if a machine has to restart for its next step.", &|s| u64::from(s.plan.restart)),
        ("hotgraft_restart_pending", "1 if processes of a machine still run older files than it has.", &|s| {
            u64::from(s.truth.restart_pending != crate::truth::Restart::None)
        }),
    ];
    for (name, help, value) in gauges {
        head(&mut out, name, help);
        for subject in facts.subjects {
            let machine = label(&subject.truth.machine);
            let _ = writeln!(out, "{name}{{product=\"{product}\",machine=\"{machine}\"}} {}", value(subject));
        }
    }
    head(&mut out, "hotgraft_machine_info", "What a machine has.");
    for subject in facts.subjects {
        let t = &subject.truth;
        let text = |value: &Option<String>| label(value.as_deref().unwrap_or_default());
        let _ = writeln!(
            out,
            "hotgraft_machine_info{{product=\"{product}\",machine=\"{}\",baseline=\"{}\",hotpatch=\"{}\",file_build=\"{}\",effective_build=\"{}\"}} 1",
            label(&t.machine),
            text(&t.baseline),
            text(&t.hotpatch),
            text(&t.file_build),
            text(&t.effective_build)
        );
    }
    out.into_bytes()
}
