//! Rules about the image as a whole.

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::rules::explain;
use crate::verdict::{Difference, Finding, Outcome};

/// A finding for every difference of the image as a whole.
pub fn changes(ctx: &Context, _closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for (i, change) in ctx.cmp.image.iter().enumerate() {
        let about = Some(Difference::Image(u32::try_from(i).unwrap_or(u32::MAX)));
        let rule = match change.key {
            // Judged from the imports that the patch really uses.
            "image.import.added" | "image.import.new_dll" => "noise.layout",
            key => key,
        };
        let subject = change.subject.clone();
        out.push(match explain(rule) {
            Some(rule) => finding(rule.key, rule.outcomes[rule.outcomes.len() - 1], about, subject, &change.text, None),
            None => {
                let text = format!("{} ({})", change.text, change.key);
                finding("code.unattributed", Outcome::Refuse, about, subject, &text, None)
            }
        });
    }
    out
}

/// Imports of the patch that the base has not.
pub fn imports(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for &id in &closure.imports {
        let import = &ctx.new.imports[id.index()];
        if import.delayed {
            continue;
        }
        let known = ctx.old.imports.iter().any(|old| !old.delayed && old.dll.eq_ignore_ascii_case(&import.dll));
        let subject = format!("{}!{}", import.dll, import.name);
        out.push(if known {
            finding("image.import.added", Outcome::Patch, None, subject, "", None)
        } else {
            finding("image.import.new_dll", Outcome::Condition, None, subject, "", None)
        });
    }
    out
}
