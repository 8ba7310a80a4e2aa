//! From two images to a hotpatch image that leaves nothing different, or to the reasons why there is none: for `build`
//! and `release` alike.

use anyhow::{Context, Result};
use hotgraft_diff::Comparison;
use hotgraft_packager::{Decision, Finding, Options, Outcome, Plan, Reach, Verdict, emit, plan, verdict};
use hotgraft_program::{ObjectId, Program};
use hotgraft_residual::Remaining;

/// Both sides, compared, and the bytes of the base.
pub struct Pair<'a> {
    /// The shipped image.
    pub old: &'a Program,
    /// The fixed image.
    pub new: &'a Program,
    /// What differs.
    pub comparison: &'a Comparison,
    /// Bytes of the shipped image.
    pub base: &'a [u8],
}

/// What became of a plan.
pub enum Made {
    /// An image after whose application nothing remains.
    Patch(Vec<u8>),
    /// Why there is none, and what would remain.
    Refused(Finding, Vec<Remaining>),
}

/// Write the image and check what remains. Without a wanted reach, slots are tried first; if that image does not pass, near
/// references are used. `detail` is told about ways that were tried in vain.
pub fn make(pair: &Pair<'_>, plan: &Plan, options: &Options, detail: &dyn Fn(String)) -> Result<Made> {
    let reaches = match options.reach {
        Some(reach) => vec![reach],
        None => vec![Reach::Any, Reach::Near],
    };
    let mut last = None;
    for reach in reaches {
        let options = Options { reach: Some(reach), ..options.clone() };
        let bytes = match emit::emit(pair.old, pair.new, pair.comparison, plan, &options) {
            Ok(bytes) => bytes,
            Err(hotgraft_packager::Error::Refused { key, text }) => {
                detail(format!("{reach:?}: {key}: {text}"));
                last = Some(Made::Refused(refusal(key, text), Vec::new()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut residual = hotgraft_residual::check(pair.old, pair.new, pair.comparison, pair.base, &bytes)?;
        leave_to_hooks(&mut residual, pair.new, &plan.repaired);
        let Some(first) = residual.remaining.first() else { return Ok(Made::Patch(bytes)) };
        let text = format!(
            "After the patch {} places would still differ from the new image; the first: {}: {}. Nothing was written. \
             Deliver the fix with a restart, and report the pair.",
            residual.remaining.len(),
            first.subject,
            first.text
        );
        detail(format!("{reach:?}: {text}"));
        last = Some(Made::Refused(refusal("code.residual.remains", text), residual.remaining));
    }
    last.context("no way of reaching the base was tried")
}

/// What remains is not counted where a hook sets it: the first bytes of variables with another initial value.
pub fn leave_to_hooks(residual: &mut hotgraft_residual::Residual, new: &Program, repaired: &[ObjectId]) {
    residual.remaining.retain(|one| {
        one.key != "residual.data" || !repaired.iter().any(|id| new.objects[id.index()].contains(one.new_rva))
    });
}

fn refusal(key: &'static str, text: String) -> Finding {
    Finding {
        key,
        outcome: Outcome::Refuse,
        subject: "the patch image".to_owned(),
        text,
        source: None,
        about: None,
        covers: Vec::new(),
    }
}

/// The verdict on a pair, and the patch if there is one.
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The patch image.
    pub patch: Option<Vec<u8>>,
}

/// Everything from two loaded programs to a checked patch.
pub fn judge_and_make(old: &Program, new: &Program, base: &[u8], options: &Options) -> Result<Judged> {
    let comparison = hotgraft_diff::compare(old, new, &hotgraft_diff::Options::default());
    let mut verdict = verdict::judge(old, new, &comparison, options);
    if !matches!(verdict.decision, Decision::Patch | Decision::Conditional) {
        return Ok(Judged { verdict, patch: None });
    }
    let plan = plan::plan(old, new, &comparison, &verdict, options)?;
    match make(&Pair { old, new, comparison: &comparison, base }, &plan, options, &|_| {})? {
        Made::Patch(bytes) => Ok(Judged { verdict, patch: Some(bytes) }),
        Made::Refused(finding, _) => {
            verdict.decision = Decision::Refuse;
            verdict.findings.insert(0, finding);
            Ok(Judged { verdict, patch: None })
        }
    }
}
