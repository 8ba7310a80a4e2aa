//! The rule about the developer's own code in a patch.

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::emit::hooks;
use crate::verdict::{Finding, Outcome};

/// A condition where hooks were given: what they do is not judged by anything here.
pub fn present(ctx: &Context, closure: &Closure) -> Option<Finding> {
    let file = ctx.options.hooks.as_ref()?;
    if closure.functions.is_empty() {
        return None;
    }
    let subject = String::from("the hooks");
    Some(match hooks::points(file) {
        Ok(points) => {
            let names: Vec<&str> = points.iter().map(|point| point.symbol()).collect();
            let text = format!("The patch brings {}.", names.join(", "));
            finding("runtime.hook", Outcome::Condition, None, subject, &text, None)
        }
        Err(error) => finding("runtime.hook", Outcome::Refuse, None, subject, &error.to_string(), None),
    })
}

/// True if hooks can repair what differs in live data: there are some that run when the patch is applied.
pub fn can_repair(ctx: &Context, closure: &Closure) -> bool {
    use hotgraft_hotpatch::HookPoint;
    let points = ctx.options.hooks.as_ref().and_then(|file| hooks::points(file).ok()).unwrap_or_default();
    !closure.functions.is_empty() && points.iter().any(|p| matches!(p, HookPoint::PreApply | HookPoint::PostApply))
}
