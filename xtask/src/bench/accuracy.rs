//! `cargo xtask bench accuracy`: how well functions are matched, and changed ones found, where the tool is not given the
//! PDBs. The names in those PDBs and the object files are the truth.

mod pairs;
mod relayout;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::hotgraft::{Hotgraft, Profile};
use crate::say;
use pairs::Pair;
pub use pairs::{Release, sources};

/// Worst cases to name.
const WORST: usize = 10;
/// Score from which at least 99 % of all matches should be right.
const SURE: f64 = 0.9;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only pairs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Built pairs of security fixes, in DIR/PACKAGE/NN-CVE/{old,new}, as `cargo xtask corpus` leaves them.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Take this `hotgraft` instead of building one.
    #[arg(long, value_name = "FILE")]
    hotgraft: Option<PathBuf>,
}

/// Functions by entry, as a PDB names them.
type Names = BTreeMap<u64, String>;

/// How a pair came out.
#[derive(Clone, Debug, Default)]
struct Outcome {
    right: usize,
    wrong: usize,
    /// Names that both images have once.
    expected: usize,
    /// Score of each match, and whether it is right.
    scores: Vec<(f64, bool)>,
    /// Truly changed functions: how many there are, how many were found, and how many were reported.
    changed: Option<Changed>,
    /// Wrong matches and missing ones, with a weight by which the worst come first.
    cases: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    truth: usize,
    found: usize,
    reported: usize,
    /// Reported although the object files agree.
    false_reports: usize,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.expected += other.expected;
        self.scores.extend(other.scores);
        self.cases.extend(other.cases);
        if let Some(c) = other.changed {
            let sum = self.changed.get_or_insert_default();
            sum.truth += c.truth;
            sum.found += c.found;
            sum.reported += c.reported;
            sum.false_reports += c.false_reports;
        }
    }
}

/// Prints the tables.
///
/// # Errors
/// If a pair cannot be built or compared.
pub fn run(options: &Options) -> Result<()> {
    let hotgraft = match &options.hotgraft {
        Some(path) => Hotgraft { path: path.clone() },
        None => Hotgraft::build(Profile::Release)?,
    };
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut all = Outcome::default();
    say::line(&format!(
        "{:<28} {:>9} {:>9} {:>7} {:>7} {:>7} | {:>8} {:>7} {:>7}",
        "pair (no PDB given)", "functions", "precision", "recall", "F1", "wrong", "changed", "prec.", "recall"
    ));
    for pair in pairs::released(&wanted)? {
        let outcome = measure(&hotgraft, &pair)?;
        say::line(&row(&pair.name, &outcome));
        all.add(outcome);
    }
    if let Some(folder) = &options.corpus {
        for (package, pairs) in pairs::fixes(folder)? {
            let mut sum = Outcome::default();
            for pair in &pairs {
                sum.add(measure(&hotgraft, pair)?);
            }
            let name = format!("{package}, {} security fixes", pairs.len());
            if wanted(&name) {
                say::line(&row(&name, &sum));
                all.add(sum);
            }
        }
    }
    reliability(&all);
    all.cases.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    say::line("\nworst cases");
    for (_, case) in all.cases.iter().take(WORST) {
        say::line(&format!("  {case}"));
    }
    if wanted("relayout") { relayout::run(&hotgraft) } else { Ok(()) }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn row(name: &str, o: &Outcome) -> String {
    let (precision, recall) = (share(o.right, o.right + o.wrong), share(o.right, o.expected));
    let f1 = if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
    let changed = o.changed.map_or_else(
        || format!("{:>8} {:>7} {:>7}", "-", "-", "-"),
        |c| {
            let precision = share(c.reported - c.false_reports, c.reported);
            format!("{:>8} {:>7.4} {:>7.4}", c.truth, precision, share(c.found, c.truth))
        },
    );
    format!("{name:<28} {:>9} {precision:>9.4} {recall:>7.4} {f1:>7.4} {:>7} | {changed}", o.expected, o.wrong)
}

/// How often a score tells the truth.
fn reliability(all: &Outcome) {
    say::line("\nscore          matches   right    share");
    for bucket in (0..10).rev() {
        let (low, high) = (f64::from(bucket) / 10.0, f64::from(bucket + 1) / 10.0);
        let within = |s: f64| s >= low && (s < high || (bucket == 9 && s <= 1.0));
        let hits: Vec<bool> = all.scores.iter().filter(|(s, _)| within(*s)).map(|(_, right)| *right).collect();
        let right = hits.iter().filter(|h| **h).count();
        if !hits.is_empty() {
            let share = share(right, hits.len());
            say::line(&format!("{low:.1} to {high:.1} {:>12} {right:>7} {share:>8.4}", hits.len()));
        }
    }
    let sure: Vec<bool> = all.scores.iter().filter(|(s, _)| *s >= SURE).map(|(_, right)| *right).collect();
    let right = sure.iter().filter(|h| **h).count();
    say::line(&format!("at least {SURE}: {:.4}", share(right, sure.len())));
}

fn json(hotgraft: &Hotgraft, arguments: &[&std::ffi::OsStr], codes: &[i32]) -> Result<Value> {
    let mut command = hotgraft.command();
    let done = command::finish(command.args(arguments))?;
    ensure!(codes.contains(&done.code), "`{}` exited with {}: {}", command::shown(&command), done.code, done.stderr);
    serde_json::from_str(&done.stdout).with_context(|| format!("`{}` wrote no JSON", command::shown(&command)))
}

/// What the PDB calls each function.
fn names(hotgraft: &Hotgraft, image: &Path) -> Result<Names> {
    let list = json(
        hotgraft,
        &["inspect".as_ref(), image.as_os_str(), "--functions".as_ref(), "--format".as_ref(), "json".as_ref()],
        &[0],
    )?;
    let functions = list["functions"].as_array().context("no list of functions")?;
    Ok(functions
        .iter()
        .filter_map(|f| Some((f["ranges"][0]["rva"].as_u64()?, f["name"].as_str()?.to_owned())))
        .collect())
}

/// Names that only one function has.
fn unique(names: &Names) -> BTreeSet<&str> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    names.values().for_each(|n| *count.entry(n).or_default() += 1);
    count.into_iter().filter(|(_, n)| *n == 1).map(|(name, _)| name).collect()
}

fn measure(hotgraft: &Hotgraft, pair: &Pair) -> Result<Outcome> {
    let (old, new) = (names(hotgraft, &pair.old)?, names(hotgraft, &pair.new)?);
    let both: BTreeSet<&str> = unique(&old).intersection(&unique(&new)).copied().collect();
    let report = json(
        hotgraft,
        &[
            "diff".as_ref(),
            pair.old.as_os_str(),
            pair.new.as_os_str(),
            "--no-pdb".as_ref(),
            "--format".as_ref(),
            "json".as_ref(),
        ],
        &[0, 1],
    )?;
    let truth = match &pair.objects {
        Some((a, b)) => Some((truth::functions(a)?, truth::functions(b)?)),
        None => None,
    };
    let mut out = Outcome { expected: both.len(), ..Outcome::default() };
    let mut matched: BTreeSet<&str> = BTreeSet::new();
    let mut different: BTreeSet<&str> = BTreeSet::new();
    for f in report["functions"].as_array().context("no functions")? {
        let name = |side: &str, names: &'_ Names| f[side]["rva"].as_u64().and_then(|rva| names.get(&rva).cloned());
        let (a, b) = (name("old", &old), name("new", &new));
        if f["status"] != "identical" {
            different.extend(a.iter().chain(&b).filter_map(|n| both.get(n.as_str())));
        }
        let (Some(a), Some(b)) = (a, b) else { continue };
        let counts = both.contains(a.as_str()) || both.contains(b.as_str());
        let right = a == b;
        // Functions that share their names with others say nothing, unless the two names differ.
        if right && !counts {
            continue;
        }
        // One that was only renamed has no name to be right by.
        let renamed = !new.values().any(|n| *n == a) && !old.values().any(|n| *n == b);
        if let Some((x, y)) = &truth
            && let (true, Some(p), Some(q)) = (renamed, x.get(&a), y.get(&b))
            && truth::same(p, x, q, y)
        {
            continue;
        }
        let score = f["match"]["score"].as_f64().unwrap_or(0.0);
        out.scores.push((score, right));
        if right {
            out.right += 1;
            matched.extend(both.get(a.as_str()));
        } else {
            out.wrong += 1;
            let by = f["match"]["by"].as_str().unwrap_or("?");
            out.cases.push((1.0 + score, format!("{}: {a} taken for {b}, by {by}, score {score:.2}", pair.name)));
        }
    }
    for name in both.difference(&matched) {
        out.cases.push((0.0, format!("{}: {name} not matched", pair.name)));
    }
    if let Some((a, b)) = truth {
        let known: BTreeSet<&str> = both.iter().copied().filter(|n| a.contains_key(*n) && b.contains_key(*n)).collect();
        let changed: BTreeSet<&str> = known.iter().copied().filter(|n| !truth::same(&a[*n], &a, &b[*n], &b)).collect();
        let reported: BTreeSet<&str> = different.intersection(&known).copied().collect();
        for name in changed.difference(&reported) {
            out.cases.push((3.0, format!("{}: {name} is changed and called identical", pair.name)));
        }
        for name in reported.difference(&changed) {
            out.cases.push((0.5, format!("{}: {name} is called changed and is not", pair.name)));
        }
        out.changed = Some(Changed {
            truth: changed.len(),
            found: changed.intersection(&reported).count(),
            reported: reported.len(),
            false_reports: reported.difference(&changed).count(),
        });
    }
    Ok(out)
}
