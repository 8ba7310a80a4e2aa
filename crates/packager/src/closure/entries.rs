//! Old entries that stay as they are: because no redirect is possible or right there, whoever uses the function comes along.

use super::{Builder, Why, signature_changed};
use crate::context::Context;
use crate::contract;
use crate::uses::{User, is_address_taken};
use hotgraft_diff::comparison::function_label;
use hotgraft_program::{EntryKind, Evidence, FunctionId};

impl Builder<'_, '_> {
    /// A function whose old entry is not redirected needs all its callers.
    pub(super) fn check_entry(&mut self, old: FunctionId, new: FunctionId) {
        let ctx = self.ctx;
        if self.keeps_entry_for_frames(old, new) {
            return;
        }
        let drift = contract::drift(ctx, old, new);
        let key = if signature_changed(ctx, old, new) {
            "code.signature.changed"
        } else if drift.is_some() {
            "code.contract.changed"
        } else if ctx.old.functions[old.index()].entry_kind == EntryKind::None {
            "entry.site.not_redirectable"
        } else {
            return;
        };
        let about = Some(ctx.function_pair(new).1);
        let subject = ctx.function_subject(Some(old), Some(new));
        let source = ctx.function_source(Some(old), Some(new));
        if let Some(holder) = self.address_holder(old, new) {
            let text = match key {
                "code.signature.changed" => format!(
                    "The prototype was `{}` and is `{}`, and callers that are not known can reach it: {holder}.",
                    ctx.old.functions[old.index()].prototype.as_deref().unwrap_or("?"),
                    ctx.new.functions[new.index()].prototype.as_deref().unwrap_or("?"),
                ),
                _ => format!("The old entry has no room for a redirect, and not only direct calls reach it: {holder}."),
            };
            self.block(key, about, subject, &text, source);
            return;
        }
        self.out.direct_only.insert(new);
        if let Some(text) = drift.filter(|_| key == "code.contract.changed") {
            self.out.drifts.insert(new, text);
        }
        let label = function_label(ctx.new, new);
        let callers: Vec<FunctionId> = ctx
            .old_uses
            .of_function(old)
            .iter()
            .filter_map(|u| match u.user {
                User::Function(caller) => ctx.cmp.new_function(caller),
                _ => None,
            })
            .chain(ctx.new_uses.of_function(new).iter().filter_map(|u| match u.user {
                User::Function(caller) => Some(caller),
                _ => None,
            }))
            .collect();
        for caller in callers {
            // The loader calls it once, and has done so: its new version would never run.
            if key == "entry.site.not_redirectable"
                && let Some(last) = ctx.function_pair(caller).0.old
                && ctx.old.functions[last.index()].evidence.contains(Evidence::ENTRY_POINT)
            {
                let name = function_label(ctx.old, last);
                let text = format!("{name}, which calls it, is the entry point and will not be called again.");
                self.block(key, about, subject.clone(), &text, source.clone());
            }
            self.add_function(caller, Why::Calls(label.clone()));
        }
    }

    /// A function that runs on another one's frame: frames of the old version go on to need the old code, so that its entry
    /// stays as it is, and the new version is for the new versions of its owners only.
    fn keeps_entry_for_frames(&mut self, old: FunctionId, new: FunctionId) -> bool {
        let ctx = self.ctx;
        let (last, next) = (&ctx.old.functions[old.index()], &ctx.new.functions[new.index()]);
        let (a, b) = (&last.funclet_of, &next.funclet_of);
        if !ctx.is_funclet(new) {
            if last.is_named_as_funclet() || next.is_named_as_funclet() {
                let about = Some(ctx.function_pair(new).1);
                let subject = ctx.function_subject(Some(old), Some(new));
                let text = "By its name it runs on the frame of another function, and no unwind data says so.";
                self.block("code.unwind.unknown", about, subject, text, ctx.function_source(Some(old), Some(new)));
            }
            return false;
        }
        let label = function_label(ctx.new, new);
        let stranger = [(ctx.old, &ctx.old_uses, old, a), (ctx.new, &ctx.new_uses, new, b)].into_iter().any(
            |(program, uses, id, owners)| {
                Context::is_reachable_from_outside(program, id)
                    || uses.of_function(id).iter().any(|used| {
                        let own = matches!(used.user, User::Function(user) if user == id || owners.contains(&user));
                        !own && (matches!(used.user, User::Function(_)) || is_address_taken(program, id, used))
                    })
            },
        );
        if stranger {
            let about = Some(ctx.function_pair(new).1);
            let subject = ctx.function_subject(Some(old), Some(new));
            let source = ctx.function_source(Some(old), Some(new));
            let text = "It runs on the frame of another function, and yet others reach it as well.";
            self.block("code.fold.diverged", about, subject, text, source);
        }
        self.out.direct_only.insert(new);
        for owner in a.iter().filter_map(|&owner| ctx.cmp.new_function(owner)) {
            self.add_function(owner, Why::Frame(label.clone()));
        }
        true
    }

    /// Who can reach a function by another way than a direct call, on either side.
    fn address_holder(&self, old: FunctionId, new: FunctionId) -> Option<String> {
        let ctx = self.ctx;
        for (program, uses, id) in [(ctx.old, &ctx.old_uses, old), (ctx.new, &ctx.new_uses, new)] {
            if Context::is_reachable_from_outside(program, id) {
                return Some(String::from("it is exported, an entry point or a registered call target"));
            }
            if let Some(used) = uses.of_function(id).iter().find(|u| is_address_taken(program, id, u)) {
                return Some(format!("its address is held by {}", Context::user_label(program, used.user)));
            }
            if let Some(user) = uses.handler_of(id).find(|user| *user != id) {
                return Some(format!("the unwind data of {} names it", function_label(program, user)));
            }
        }
        None
    }
}
