//! May this pair be hotpatched?

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::rules;
use hotgraft_diff::comparison::{Comparison, Status};
use hotgraft_program::Program;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a rule says of one difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The patch carries it.
    Patch,
    /// The patch carries it if the operator accepts the named condition.
    Condition,
    /// It cannot be hotpatched.
    Refuse,
    /// Proven to need nothing.
    Harmless,
}

/// The verdict over all differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Everything is patched or harmless.
    Patch,
    /// As `Patch`, with conditions (all of them accepted if a plan follows).
    Conditional,
    /// At least one refusal or unaccepted condition.
    Refuse,
    /// Nothing functional differs.
    Nothing,
}

/// One rule applied to one difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable dotted key, `family.thing.change`.
    pub key: &'static str,
    /// What the rule says.
    pub outcome: Outcome,
    /// Function, object, type or image part, with RVAs.
    pub subject: String,
    /// Evidence, why in one sentence, what to do in one sentence.
    pub text: String,
    /// `file:line` where known.
    pub source: Option<String>,
    /// The difference it speaks of, if it speaks of one.
    #[serde(skip)]
    pub about: Option<Difference>,
    /// The differences that this finding accounts for. Each difference of a comparison is in exactly one such list.
    #[serde(skip)]
    pub covers: Vec<Difference>,
}

/// One difference of a [`Comparison`], by its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// In `functions`.
    Function(u32),
    /// In `objects`.
    Object(u32),
    /// In `image`.
    Image(u32),
}

/// How patch code reaches the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// RIP-relative fields, resolved after placing the patch within 2 GB of the base.
    Near,
    /// Slots in read-only data, so that the patch works anywhere and the image is structurally Windows' own.
    Any,
}

/// Options of a build.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sequence number, not 0 (default 1).
    pub sequence: Option<u32>,
    /// KB id.
    pub kb: Option<String>,
    /// CVE ids.
    pub cves: Vec<String>,
    /// Keys of accepted conditions.
    pub accept: Vec<String>,
    /// Who accepts them.
    pub accepted_by: Option<String>,
    /// Object file with the developer's hooks.
    pub hooks: Option<Vec<u8>>,
    /// Reach; `None`: any where proven safe for all references, else near.
    pub reach: Option<Reach>,
    /// Allow a patch without PDBs.
    pub allow_without_pdb: bool,
}

/// The verdict: every difference of the comparison is in `findings`, none is dropped.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Over all.
    pub decision: Decision,
    /// Sorted: refusals first, then conditions, patches, harmless; within, by key and subject.
    pub findings: Vec<Finding>,
}

/// Judges a comparison.
pub fn judge(old: &Program, new: &Program, cmp: &Comparison, options: &Options) -> Verdict {
    let ctx = Context::new(old, new, cmp, options);
    judge_closure(&ctx, &Closure::of(&ctx))
}

/// Judges a comparison whose closure is known.
pub(crate) fn judge_closure(ctx: &Context, closure: &Closure) -> Verdict {
    let mut findings = Vec::new();
    findings.extend(rules::identity::same_thing(ctx));
    findings.extend(rules::identity::supported(ctx));
    findings.extend(rules::identity::incremental(ctx));
    findings.extend(rules::identity::pdb_missing(ctx));
    findings.extend(rules::identity::same_build(ctx));
    findings.extend(rules::functions::pairs(ctx, closure));
    findings.extend(rules::functions::unmarked(ctx, closure));
    findings.extend(rules::functions::included(ctx, closure));
    findings.extend(rules::functions::unmovable(ctx, closure));
    findings.extend(rules::folds::diverged(ctx, closure));
    findings.extend(rules::functions::contracts(ctx, closure));
    findings.extend(rules::functions::drifts(ctx, closure));
    findings.extend(rules::functions::sites(ctx, closure));
    findings.extend(rules::objects::pairs(ctx, closure));
    findings.extend(rules::image::changes(ctx, closure));
    findings.extend(rules::image::imports(ctx, closure));
    findings.extend(rules::image::guard(ctx));
    findings.extend(rules::image::continuations(ctx, closure));
    findings.extend(rules::image::entry_point(ctx));
    findings.extend(rules::image::thread_locals(ctx));
    findings.extend(rules::runtime::loops(ctx, closure));
    findings.extend(rules::runtime::frames(ctx, closure));
    findings.extend(rules::hooks::present(ctx, closure));
    findings.extend(closure.blocks.iter().cloned());
    account(ctx, &mut findings);
    findings.extend(rules::image::export_alone(&findings));
    findings.sort_by(|a, b| {
        (rank(a.outcome), a.key, &a.subject, &a.text).cmp(&(rank(b.outcome), b.key, &b.subject, &b.text))
    });
    Verdict { decision: decide(&findings, &ctx.options.accept), findings }
}

/// Order of outcomes in a verdict: what stands against a patch first.
fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Refuse => 0,
        Outcome::Condition => 1,
        Outcome::Patch => 2,
        Outcome::Harmless => 3,
    }
}

/// Makes every difference of the comparison the business of exactly one finding: the gravest of those that speak of it,
/// unless a finding has claimed it. A difference that none speaks of is a refusal.
fn account(ctx: &Context, findings: &mut Vec<Finding>) {
    let claimed: BTreeSet<Difference> = findings.iter().flat_map(|f| f.covers.iter().copied()).collect();
    let mut best: BTreeMap<Difference, usize> = BTreeMap::new();
    for (i, f) in findings.iter().enumerate() {
        let Some(about) = f.about else { continue };
        best.entry(about)
            .and_modify(|b| {
                if rank(f.outcome) < rank(findings[*b].outcome) {
                    *b = i
                }
            })
            .or_insert(i);
    }
    for difference in differences(ctx.cmp) {
        if claimed.contains(&difference) {
            continue;
        }
        match best.get(&difference) {
            Some(&i) => findings[i].covers.push(difference),
            None => {
                let text = "No rule speaks of this difference.";
                let subject = format!("{difference:?}");
                let mut f = finding("code.unattributed", Outcome::Refuse, Some(difference), subject, text, None);
                f.covers.push(difference);
                findings.push(f);
            }
        }
    }
}

/// All differences of a comparison.
pub fn differences(cmp: &Comparison) -> Vec<Difference> {
    let index = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
    let functions = cmp.functions.iter().enumerate().filter(|(_, p)| p.status != Status::Identical);
    let objects = cmp.objects.iter().enumerate().filter(|(_, p)| p.status != Status::Identical);
    functions
        .map(|(i, _)| Difference::Function(index(i)))
        .chain(objects.map(|(i, _)| Difference::Object(index(i))))
        .chain((0..cmp.image.len()).map(|i| Difference::Image(index(i))))
        .collect()
}

fn decide(findings: &[Finding], accept: &[String]) -> Decision {
    let has = |outcome| findings.iter().any(|f| f.outcome == outcome);
    let open = findings.iter().any(|f| f.outcome == Outcome::Condition && !accept.iter().any(|key| key == f.key));
    if has(Outcome::Refuse) {
        Decision::Refuse
    } else if !has(Outcome::Patch) {
        // A condition of a patch that nothing calls for need not be accepted.
        Decision::Nothing
    } else if open {
        Decision::Refuse
    } else if has(Outcome::Condition) {
        Decision::Conditional
    } else {
        Decision::Patch
    }
}
