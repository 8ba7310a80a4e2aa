//! Rules about the image as a whole, about the inputs, and about noise.

use crate::cases;
use crate::common::{Side, pair};
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_program::*;

fn simple(body: u8) -> Side {
    let mut s = Side::new();
    s.function("f", body);
    s.import("a.dll", "known");
    s
}

/// A rule that follows from the comparison's word alone.
macro_rules! word {
    ($key:expr, $change:literal, $outcome:ident) => {
        pair(&simple(1), &simple(2)).image($change).trips($key, Outcome::$outcome)
    };
}

cases! {
    image_import_added = "image.import.added" {
        trips {
            let mut new = simple(2);
            new.import("A.dll", "more");
            new.f("f").reads("more");
            let p = pair(&simple(1), &new).image_of("image.import.added", "a.dll!more");
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.plan().imports.len(), 1);
            assert_eq!(p.verdict().decision, Decision::Patch);
        }
        spares {
            let mut new = simple(2);
            new.f("f").reads("known");
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    runtime_hook = "runtime.hook" {
        trips {
            let p = || pair(&simple(1), &simple(2));
            let finding = |p: &crate::common::Pair| p.verdict().findings.into_iter().find(|f| f.key == KEY).map(|f| f.outcome);
            assert_eq!(finding(&p().hooks(true)), Some(Outcome::Condition));
            assert_eq!(p().hooks(true).verdict().decision, Decision::Refuse, "nobody has accepted it");
            assert_eq!(finding(&p().hooks(false)), Some(Outcome::Refuse));
            assert_eq!(p().hooks(false).accept(KEY).verdict().decision, Decision::Refuse);
        }
        spares {
            pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch);
            // Nothing is patched, so nothing runs.
            pair(&simple(1), &simple(1)).hooks(true).spares(KEY, Decision::Nothing);
        }
    }
    image_import_new_dll = "image.import.new_dll" {
        trips {
            let mut new = simple(2);
            new.import("b.dll", "more");
            new.f("f").reads("more");
            let p = pair(&simple(1), &new).image_of("image.import.added", "b.dll!more").image_of("image.import.dll.added", "b.dll");
            p.trips(KEY, Outcome::Condition);
            assert_eq!(p.verdict().decision, Decision::Refuse, "a condition must be accepted by name");
            let p = p.accept(KEY);
            assert_eq!(p.verdict().decision, Decision::Conditional);
            assert_eq!(p.plan().accepted, [KEY]);
        }
        spares {
            let mut new = simple(2);
            new.import("b.dll", "more");
            pair(&simple(1), &new).image_of("image.import.added", "b.dll!more").spares(KEY, Decision::Patch);
        }
    }
    image_import_unused = "image.import.unused" {
        trips {
            let mut new = simple(2);
            new.import("b.dll", "more");
            pair(&simple(1), &new).image_of("image.import.added", "b.dll!more").trips(KEY, Outcome::Harmless);
        }
        spares {
            let mut new = simple(2);
            new.import("a.dll", "more");
            new.f("f").reads("more");
            pair(&simple(1), &new).image_of("image.import.added", "a.dll!more").spares(KEY, Decision::Patch);
        }
    }
    image_import_removed = "image.import.removed" {
        trips { word!(KEY, "image.import.removed", Harmless); }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    image_import_delayed = "image.import.delayed" {
        trips {
            let mut new = simple(2);
            new.imports.push(("a.dll".into(), "later".into(), true));
            new.f("f").reads("later");
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.imports.push(("a.dll".into(), "later".into(), true));
                s.f("f").reads("later");
            }
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    image_export_added = "image.export.added" {
        trips { word!(KEY, "image.export.added", Condition); }
        spares { pair(&simple(1), &simple(2)).image("image.timestamp").spares(KEY, Decision::Patch); }
    }
    image_export_alone = "image.export.alone" {
        trips { pair(&simple(1), &simple(1)).image("image.export.added").trips(KEY, Outcome::Refuse); }
        spares {
            // With a fix beside it, it is a condition of the patch.
            pair(&simple(1), &simple(2)).image("image.export.added").accept("image.export.added").spares(KEY, Decision::Conditional);
            // Another condition does not matter where there is nothing to patch.
            pair(&simple(1), &simple(1)).image("image.compiler.changed").spares(KEY, Decision::Nothing);
        }
    }
    image_export_removed = "image.export.removed" {
        trips { word!(KEY, "image.export.removed", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.timestamp").spares(KEY, Decision::Patch); }
    }
    image_export_changed = "image.export.changed" {
        trips { word!(KEY, "image.export.changed", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.timestamp").spares(KEY, Decision::Patch); }
    }
    image_entry_point_changed = "image.entry_point.changed" {
        trips {
            let mut old = simple(1);
            old.edit.push(|p| p.image.entry_point = p.functions[1].rva());
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
            word!(KEY, "image.entry_point.changed", Refuse);
        }
        spares {
            let mut old = simple(1);
            old.edit.push(|p| p.image.entry_point = p.functions[0].rva());
            pair(&old, &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    image_initialisers_changed = "image.initialisers.changed" {
        trips {
            let mut new = simple(2);
            new.special("__CTOR_LIST__", &[0; 8], ObjectKind::InitializerTable, false).points(0, "f");
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
            word!(KEY, "image.initialisers.changed", Refuse);
        }
        spares {
            // An equal table, one of whose functions changed: it has run, and nothing is lost by that.
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.special("__CTOR_LIST__", &[0; 8], ObjectKind::InitializerTable, false).points(0, "main");
            }
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    image_tls_changed = "image.tls.changed" {
        trips {
            let side = |body, first: u32| {
                let mut s = simple(body);
                s.special("a", &[0; 4], ObjectKind::TlsTemplate, true);
                s.special("b", &vec![0; first as usize], ObjectKind::TlsTemplate, true);
                s
            };
            let mut new = side(2, 4);
            new.special("c", &[0; 4], ObjectKind::TlsTemplate, true);
            pair(&side(1, 4), &new).trips(KEY, Outcome::Refuse);
            // The same variables in another order: code knows their offsets as numbers.
            let mut new = side(2, 4);
            new.objects.swap(0, 1);
            pair(&side(1, 4), &new).trips(KEY, Outcome::Refuse);
            word!(KEY, "image.tls.changed", Refuse);
        }
        spares {
            let side = |body, shift| {
                let mut s = simple(body);
                s.special("a", &[0; 4], ObjectKind::TlsTemplate, true);
                s.special("b", &[0; 4], ObjectKind::TlsTemplate, true);
                s.shift = shift;
                s
            };
            pair(&side(1, 0), &side(2, 0x40)).spares(KEY, Decision::Patch);
        }
    }
    image_pseudo_relocations_changed = "image.pseudo_relocations.changed" {
        trips {
            let mut new = simple(2);
            new.special("list", &[1; 12], ObjectKind::PseudoRelocations, false);
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let side = |body| { let mut s = simple(body); s.special("list", &[1; 12], ObjectKind::PseudoRelocations, false); s };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    image_resource_message_table = "image.resource.message_table" {
        trips { word!(KEY, "image.resource.message_table", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.resource.version").spares(KEY, Decision::Patch); }
    }
    image_resource_changed = "image.resource.changed" {
        trips { word!(KEY, "image.resource.changed", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.resource.version").spares(KEY, Decision::Patch); }
    }
    image_header_changed = "image.header.changed" {
        trips { word!(KEY, "image.header.dll_characteristics", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.header.image_base").spares(KEY, Decision::Patch); }
    }
    image_section_changed = "image.section.changed" {
        trips { word!(KEY, "image.section.flags", Refuse); }
        spares { pair(&simple(1), &Side { shift: 0x80, ..simple(2) }).spares(KEY, Decision::Patch); }
    }
    image_load_config_changed = "image.load_config.changed" {
        trips { word!(KEY, "image.load_config.changed", Refuse); }
        spares { pair(&simple(1), &simple(2)).image("image.timestamp").spares(KEY, Decision::Patch); }
    }
    image_guard_changed = "image.guard.changed" {
        trips {
            let (mut old, mut new) = (simple(1), simple(2));
            old.edit.push(|p| p.image.dll_characteristics |= 0x4000);
            new.f("main").with(|f| f.evidence |= Evidence::GUARD_TABLE);
            pair(&old, &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (old, mut new) = (simple(1), simple(2));
            new.f("main").with(|f| f.evidence |= Evidence::GUARD_TABLE);
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    image_guard_continuations = "image.guard.continuations" {
        trips {
            let handled = |body| {
                let mut s = simple(body);
                s.edit.push(continuation_table);
                s.f("f").unwind.push((HandlerData::ScopeTable, vec![]));
                s
            };
            pair(&handled(1), &handled(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let plain = |body| { let mut s = simple(body); s.edit.push(continuation_table); s };
            pair(&plain(1), &plain(2)).spares(KEY, Decision::Patch);
        }
    }
    identity_compiler_changed = "identity.compiler.changed" {
        trips { word!(KEY, "image.compiler.changed", Condition); }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    identity_image_other = "identity.image.other" {
        trips {
            let mut other = Side::new();
            other.functions.clear();
            for name in ["a", "b", "c"] {
                other.function(name, 9);
            }
            pair(&simple(1), &other).trips(KEY, Outcome::Refuse);
            let mut exe = simple(2);
            exe.edit.push(|p| p.image.characteristics = 0x22);
            pair(&simple(1), &exe).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut new = simple(2);
            new.function("a", 9);
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    identity_image_unsupported = "identity.image.unsupported" {
        trips {
            let mut old = simple(1);
            old.edit.push(|p| p.image.subsystem = 1);
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
            let mut old = simple(1);
            old.edit.push(|p| p.image.path = "C:\\Windows\\ntdll.dll".into());
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
            let stripped = |body| { let mut s = simple(body); s.edit.push(|p| p.image.characteristics |= 1); s };
            pair(&stripped(1), &stripped(2)).trips(KEY, Outcome::Refuse);
            let mut old = simple(1);
            old.edit.push(|p| {
                p.image.directories.resize(16, (0, 0));
                p.image.directories[14] = (0x2000, 72);
            });
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut old = simple(1);
            old.edit.push(|p| p.image.path = "myntdll.dll".into());
            pair(&old, &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    image_link_incremental = "image.link.incremental" {
        trips {
            let mut old = simple(1);
            old.edit.push(|p| p.image.sections[3].name = ".textbss".into());
            pair(&old, &simple(2)).trips(KEY, Outcome::Refuse);
        }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    identity_build_changed = "identity.build.changed" {
        trips {
            let side = |body| { let mut s = simple(1); for i in 0..40 { s.function(&format!("f{i}"), body); } s };
            pair(&side(1), &side(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let side = |body| { let mut s = simple(1); for i in 0..40 { s.function(&format!("f{i}"), if i < 10 { body } else { 1 }); } s };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    identity_pdb_missing = "identity.pdb.missing" {
        trips { pair(&simple(1), &Side { no_pdb: true, ..simple(2) }).trips(KEY, Outcome::Refuse); }
        spares {
            let mut p = pair(&simple(1), &Side { no_pdb: true, ..simple(2) });
            p.options.allow_without_pdb = true;
            p.spares(KEY, Decision::Patch);
        }
    }
    noise_timestamp = "noise.timestamp" {
        trips {
            word!(KEY, "image.timestamp", Harmless);
            assert_eq!(pair(&simple(1), &simple(1)).image("image.timestamp").verdict().decision, Decision::Nothing);
        }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    noise_build_id = "noise.build_id" {
        trips { word!(KEY, "image.pdb", Harmless); }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    noise_checksum = "noise.checksum" {
        trips { word!(KEY, "image.checksum", Harmless); }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    noise_path = "noise.path" {
        trips { word!(KEY, "image.pdb.path", Harmless); }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    noise_layout = "noise.layout" {
        trips {
            let mut new = simple(2);
            new.special("functions", &[1; 12], ObjectKind::RuntimeFunctions, false);
            pair(&simple(1), &new).trips(KEY, Outcome::Harmless);
        }
        spares { pair(&simple(1), &Side { shift: 0x80, ..simple(2) }).spares(KEY, Decision::Patch); }
    }
    noise_debug = "noise.debug" {
        trips {
            let mut new = simple(2);
            new.special("debug", &[1; 12], ObjectKind::Debug, false);
            pair(&simple(1), &new).trips(KEY, Outcome::Harmless);
        }
        spares { pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch); }
    }
    noise_resource_version = "noise.resource.version" {
        trips { word!(KEY, "image.resource.version", Harmless); }
        spares { pair(&simple(1), &simple(2)).image("image.resource.changed").spares(KEY, Decision::Refuse); }
    }
}

/// Gives the image a load configuration that says: there is a table of exception continuations.
fn continuation_table(p: &mut Program) {
    const SIZE: usize = 0x140;
    let at = p.image.mapped.len();
    p.image.mapped.resize(at + SIZE, 0);
    p.image.mapped[at..at + 4].copy_from_slice(&(SIZE as u32).to_le_bytes());
    p.image.mapped[at + 0x90..at + 0x94].copy_from_slice(&0x0040_0000u32.to_le_bytes());
    p.image.directories.resize(16, (0, 0));
    p.image.directories[10] = (at as u32, SIZE as u32);
}
