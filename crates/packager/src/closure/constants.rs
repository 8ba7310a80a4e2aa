//! Constants whose contents changed: who reads them, who holds their address, and who has given it away.

use super::{Builder, Place, Why, is_derived, natural_place};
use crate::context::object_label;
use crate::escape;
use crate::uses::User;
use hotgraft_diff::comparison::function_label;
use hotgraft_program::{FunctionId, ObjectId, ObjectKind};
use std::collections::BTreeSet;

impl Builder<'_, '_> {
    /// A constant whose contents changed: whoever reads it must read the new one.
    pub(super) fn changed_object(&mut self, new: ObjectId) {
        let ctx = self.ctx;
        let object = &ctx.new.objects[new.index()];
        match object.kind {
            ObjectKind::JumpTable(owner) => {
                self.add_function(owner, Why::Changed);
                return;
            }
            ObjectKind::Unwind => return,
            _ => {}
        }
        if natural_place(ctx, new) != Place::Patch {
            return;
        }
        self.copy_with_readers(new, Why::Changed);
    }

    fn copy_with_readers(&mut self, new: ObjectId, why: Why) {
        let ctx = self.ctx;
        let mut work = vec![(new, why)];
        // The constants whose address leads to the old contents, as they are in the old image; the second set holds such
        // addresses.
        let mut stale: BTreeSet<ObjectId> = BTreeSet::new();
        let mut holders: BTreeSet<ObjectId> = BTreeSet::new();
        while let Some((id, why)) = work.pop() {
            if let Some(old) = ctx.cmp.old_object(id)
                && stale.insert(old)
                && why != Why::Changed
            {
                holders.insert(old);
            }
            let users: Vec<User> = ctx.new_uses.of_object(id).iter().map(|u| u.user).collect();
            if users.is_empty() {
                continue;
            }
            let label = object_label(ctx.new, id);
            if !self.out.objects.contains_key(&id) {
                self.add_object(id, why);
            }
            for user in users {
                match user {
                    User::Function(reader) => self.add_function(reader, Why::Reads(label.clone())),
                    User::Object(holder) if self.out.objects.contains_key(&holder) || holder == id => {}
                    User::Object(holder) => match natural_place(ctx, holder) {
                        // New or changed anyway: copied when something reaches it.
                        Place::Patch if ctx.cmp.old_object(holder).is_none() => {}
                        _ if !ctx.new.objects[holder.index()].writable
                            && !is_derived(ctx.new.objects[holder.index()].kind) =>
                        {
                            work.push((holder, Why::Holds(label.clone())));
                        }
                        _ => {
                            let (pair, about) = ctx.object_pair(id);
                            let subject = ctx.object_subject(pair.old, pair.new);
                            let text = format!(
                                "The variable {} holds its address, and in a running process that is the old one's.",
                                ctx.object_subject(ctx.cmp.old_object(holder), Some(holder))
                            );
                            self.block("data.constant.escapes", Some(about), subject, &text, None);
                        }
                    },
                    User::Nobody => {
                        let (pair, about) = ctx.object_pair(id);
                        let subject = ctx.object_subject(pair.old, pair.new);
                        let text = "Bytes that belong to nothing known hold its address.";
                        self.block("data.reference.unknown", Some(about), subject, text, None);
                    }
                }
            }
        }
        self.check_escapes(new, &stale, &holders);
    }

    /// Old code must not have given away the address of a named constant whose contents changed. Constants without a
    /// name are literals: whoever holds one holds its value of that time.
    fn check_escapes(&mut self, new: ObjectId, stale: &BTreeSet<ObjectId>, holders: &BTreeSet<ObjectId>) {
        let ctx = self.ctx;
        let (pair, about) = ctx.object_pair(new);
        let Some(old) = pair.old else { return };
        let object = &ctx.old.objects[old.index()];
        if object.name.is_none() && object.decorated.is_none() {
            return;
        }
        let users: BTreeSet<FunctionId> = stale
            .iter()
            .flat_map(|&id| ctx.old_uses.of_object(id))
            .filter_map(|u| match u.user {
                User::Function(f) => Some(f),
                _ => None,
            })
            .collect();
        for user in users {
            if let Some(place) = escape::escapes(ctx.old, user, stale, holders) {
                let name = function_label(ctx.old, user);
                let line = ctx.old.source_line(place).map(|l| format!("{}:{}", l.file, l.line));
                let text = format!("{name} stores or passes on its address at {place:#x} of the old image.");
                let subject = ctx.object_subject(pair.old, pair.new);
                self.block("data.constant.escapes", Some(about), subject, &text, line);
                return;
            }
        }
    }
}
