//! Rules about the places where redirects are written, and about threads that stand there.

use crate::cases;
use crate::common::{How, Side, pair};
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_program::*;

fn simple(body: u8) -> Side {
    let mut s = Side::new();
    s.function("caller", 1).calls("f");
    s.function("f", body);
    s
}

cases! {
    entry_site_not_redirectable = "entry.site.not_redirectable" {
        trips {
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.f("f").private().with(|f| f.entry_kind = EntryKind::None);
                s.variable("callback", &[0; 8]).points(0, "f");
            }
            pair(&old, &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // Every caller is replaced, so that nobody comes by the old entry any more.
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.f("f").private().with(|f| f.entry_kind = EntryKind::None);
            }
            let p = pair(&old, &new);
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.planned(), ["caller", "f"]);
        }
    }
    entry_site_aliased = "entry.site.aliased" {
        trips {
            let mut old = simple(1);
            old.f("main").uses(How::Jump, "f", 1);
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut old = simple(1);
            old.f("main").uses(How::Jump, "f", 0);
            pair(&old, &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    entry_site_overlap = "entry.site.overlap" {
        trips {
            let side = |body| {
                let mut s = simple(body);
                s.function("g", body);
                s.edit.push(|p| {
                    // `g` starts three bytes behind `f`.
                    let at = p.functions[2].rva() + 3;
                    p.functions[2].ranges[0].size = 3;
                    p.functions[3].ranges[0].rva = at;
                    p.functions[3].entry_kind = EntryKind::NearJump;
                    p.functions[2].entry_kind = EntryKind::NearJump;
                    p.ranges[3].0 = at;
                });
                s
            };
            pair(&side(1), &side(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let side = |body| {
                let mut s = simple(body);
                s.function("g", body);
                s
            };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    entry_site_split = "entry.site.split" {
        trips {
            let shift = |body| Side { shift: 0x2F, ..simple(body) };
            pair(&shift(1), &shift(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let shift = |body| Side { shift: 0x2E, ..simple(body) };
            pair(&shift(1), &shift(2)).spares(KEY, Decision::Patch);
        }
    }
    entry_site_relocated = "entry.site.relocated" {
        trips {
            let mut old = simple(1);
            old.edit.push(|p| { let at = p.functions[2].rva() + 1; p.image.base_relocations.push(at); });
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut old = simple(1);
            old.edit.push(|p| { let at = p.functions[2].rva() + 2; p.image.base_relocations.push(at); });
            pair(&old, &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    runtime_loop_endless = "runtime.loop.endless" {
        trips {
            let mut old = simple(1);
            old.edit.push(endless);
            let p = pair(&old, &simple(2));
            p.trips(KEY, Outcome::Condition);
            assert_eq!(p.verdict().decision, Decision::Refuse);
            assert_eq!(p.accept(KEY).verdict().decision, Decision::Conditional);
        }
        spares {
            // A loop that comes with the new version is entered by later calls only.
            let mut new = simple(2);
            new.edit.push(endless);
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    runtime_frame_grows = "runtime.frame.grows" {
        trips { pair(&framed(1, 2), &framed(2, 40)).trips(KEY, Outcome::Harmless); }
        spares { pair(&framed(1, 2), &framed(2, 4)).spares(KEY, Decision::Patch); }
    }
}

/// `f` allocates 8 times that many bytes of stack.
fn framed(body: u8, words: u8) -> Side {
    let mut s = simple(body);
    s.f("f").unwind.push((HandlerData::None, vec![]));
    s.edit.push(|p| {
        // Version 1, prologue of 4 bytes, 2 slots: UWOP_ALLOC_LARGE with its size in words.
        let at = p.unwind[0].info as usize;
        let words = p.image.mapped[p.functions[2].rva() as usize + 1];
        p.image.mapped[at..at + 8].copy_from_slice(&[1, 4, 2, 0, 4, 1, words, 0]);
    });
    s.f("f").body = words;
    let _ = body;
    s
}

#[test]
fn a_caller_that_has_run_for_the_last_time_does_not_help() {
    let (mut old, mut new) = (simple(1), simple(2));
    for s in [&mut old, &mut new] {
        s.f("f").private().with(|f| f.entry_kind = EntryKind::None);
        s.f("caller").with(|f| f.evidence |= Evidence::ENTRY_POINT);
    }
    pair(&old, &new).trips("entry.site.not_redirectable", Outcome::Refuse);
}

/// Code that loops for ever behind its first instructions.
fn endless(p: &mut Program) {
    let at = p.functions[2].ranges[0].end();
    // The last instruction was `ret`; two bytes that jump to themselves instead.
    p.image.mapped[at as usize - 1..at as usize + 1].copy_from_slice(&[0xEB, 0xFE]);
    p.functions[2].ranges[0].size += 1;
}
