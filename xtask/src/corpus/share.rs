//! Which share of the fixes became patches, by package and optimisation level.

use std::collections::BTreeMap;

use super::judge::Row;
use super::step::Built;
use crate::say;

/// What came of a fix, over all images that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Every image with another program is patched.
    Patched,
    /// At least one of them is refused.
    Refused,
    /// No image has another program: the fix is not compiled in, or compiles to what was there.
    Nothing,
    /// No verdict.
    Error,
}

fn fate(rows: &[Row]) -> Fate {
    let any = |verdict: &str| rows.iter().any(|row| row.verdict == verdict);
    if any("error") || rows.is_empty() {
        Fate::Error
    } else if any("refuse") {
        Fate::Refused
    } else if any("patch") || any("conditional") {
        Fate::Patched
    } else {
        Fate::Nothing
    }
}

/// Numbers of fixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    patched: usize,
    accepted: usize,
    refused: usize,
    nothing: usize,
    errors: usize,
    /// Why fixes are refused: rule and number of fixes.
    rules: BTreeMap<String, usize>,
}

impl Count {
    fn of<'a>(fixes: impl Iterator<Item = &'a [Row]>) -> Self {
        let mut out = Self::default();
        for rows in fixes {
            match fate(rows) {
                Fate::Patched => {
                    out.patched += 1;
                    out.accepted += usize::from(rows.iter().any(|row| row.verdict == "conditional"));
                }
                Fate::Nothing => out.nothing += 1,
                Fate::Error => out.errors += 1,
                Fate::Refused => {
                    out.refused += 1;
                    let mut keys: Vec<&str> = rows.iter().flat_map(|row| &row.refusals).map(String::as_str).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    *out.rules.entry(keys.join("+")).or_default() += 1;
                }
            }
        }
        out
    }

    fn line(&self, name: &str) -> String {
        let all = self.patched + self.refused + self.nothing + self.errors;
        let rules: Vec<String> = self.rules.iter().map(|(rule, count)| format!("{rule} x {count}")).collect();
        format!(
            "{name:<16} {all:>5} {:>8} {:>9} {:>8} {:>8} {:>6} {:>11} {:>17}  {}",
            self.patched,
            self.accepted,
            self.refused,
            self.nothing,
            self.errors,
            share(self.patched, all),
            share(self.patched, all - self.nothing),
            rules.join(", ")
        )
    }
}

fn share(part: usize, of: usize) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / of as f64) }
}

/// Prints the table. The share is given twice, for it depends on what counts as a fix of the image: of all fixes that
/// were built, and of those alone that change the program of some image.
pub fn print(judged: &[(&Built, Vec<Row>)]) {
    say::line(
        "package level    fixes  patched  accepted  refused  nothing  error  of all     of those that    refused by",
    );
    say::line("                                 (of these)                          fixes      change a program");
    let mut groups: BTreeMap<(&str, &str), Vec<&[Row]>> = BTreeMap::new();
    for (fix, rows) in judged {
        let (package, level) = (fix.step.package.as_str(), fix.level.as_str());
        for key in [(package, level), ("all", level), ("all", "")] {
            // "all" comes last.
            let key = if key.0 == "all" { ("~", key.1) } else { key };
            groups.entry(key).or_default().push(rows);
        }
    }
    for ((package, level), fixes) in &groups {
        let name = match (*package, *level) {
            ("~", "") => continue,
            ("~", level) => format!("all {level}"),
            (package, level) => format!("{package} {level}"),
        };
        say::line(&Count::of(fixes.iter().copied()).line(&name));
    }
    say::line(&Count::of(judged.iter().map(|(_, rows)| rows.as_slice())).line("all"));
}

#[cfg(test)]
mod tests {
    use super::{Count, Fate, fate};
    use crate::corpus::judge::Row;

    fn rows(verdicts: &[&str]) -> Vec<Row> {
        let row = |verdict: &&str| Row {
            verdict: (*verdict).to_owned(),
            refusals: if *verdict == "refuse" { vec!["type.layout.changed".to_owned()] } else { Vec::new() },
            ..Row::default()
        };
        verdicts.iter().map(row).collect()
    }

    #[test]
    fn a_fix_is_as_good_as_the_worst_image_that_it_changes() {
        assert_eq!(fate(&rows(&["patch", "nothing"])), Fate::Patched);
        assert_eq!(fate(&rows(&["conditional"])), Fate::Patched);
        assert_eq!(fate(&rows(&["patch", "refuse"])), Fate::Refused);
        assert_eq!(fate(&rows(&["refuse", "error"])), Fate::Error);
        assert_eq!(fate(&rows(&["nothing", "nothing"])), Fate::Nothing);
        assert_eq!(fate(&[]), Fate::Error);
    }

    #[test]
    fn fixes_that_change_no_program_are_in_one_of_the_two_shares() {
        let fixes = [rows(&["patch"]), rows(&["nothing"]), rows(&["refuse"]), rows(&["conditional"])];
        let count = Count::of(fixes.iter().map(Vec::as_slice));
        assert_eq!((count.patched, count.accepted, count.refused, count.nothing, count.errors), (2, 1, 1, 1, 0));
        let line = count.line("all");
        assert!(line.contains("50.0 %") && line.contains("66.7 %"), "{line}");
        assert!(line.ends_with("type.layout.changed x 1"), "{line}");
    }
}
