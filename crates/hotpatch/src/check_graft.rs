//! The rules on `.hgraft`.

use crate::check::{Findings, inside, touches};
use crate::graft::{EntryMethod, Graft, GraftFunction, GuardedKind};
use crate::info::{ChunkKind, base_flags};
use crate::pe::View;
use crate::raw::{CHUNK_INVERSE, CHUNK_TYPE, RawBase, RawInfo};
use crate::rules::*;

pub(crate) fn rules(
    view: &View<'_>,
    info: &RawInfo,
    base: &RawBase,
    graft: &Graft,
    relocations: &[u32],
    f: &mut Findings,
) {
    identity(view, info, base, graft, f);
    functions(view, base, graft, f);
    near(view, graft, relocations, f);
    guarded(graft, f);
    hooks(view, graft, f);
}

fn hooks(view: &View<'_>, graft: &Graft, f: &mut Findings) {
    let Some(hooks) = &graft.hooks else { return };
    let ordered = !hooks.entries.is_empty() && hooks.entries.is_sorted_by(|a, b| a.point < b.point);
    let code = hooks.entries.iter().all(|hook| is_code(view, hook.patch_rva));
    f.require(ordered && code, GRAFT_HOOKS, || format!("{:?}", hooks.entries));
}

fn identity(view: &View<'_>, info: &RawInfo, base: &RawBase, graft: &Graft, f: &mut Findings) {
    let b = &graft.base;
    for (what, ours, theirs) in [
        ("sequence number", graft.sequence, info.sequence),
        ("timestamp", b.timestamp, base.words[2]),
        ("checksum", b.checksum, base.words[3]),
        ("machine", u32::from(b.machine), u32::from(view.machine)),
    ] {
        f.require(ours == theirs, GRAFT_IDENTITY, || format!("{what} {ours:#x} in .hgraft, {theirs:#x} in the image"));
    }
    f.require(base.hashes.is_none_or(|h| h[..32] == b.sha256), GRAFT_IDENTITY, || "another SHA-256 of the base".into());
    let can = base.words[1] & base_flags::CAN_ROLL_BACK != 0;
    f.require(can == graft.irrevertible.is_none(), GRAFT_ROLL_BACK, || {
        format!("CAN_ROLL_BACK is {can}, the reason {:?}", graft.irrevertible)
    });
}

fn functions(view: &View<'_>, base: &RawBase, graft: &Graft, f: &mut Findings) {
    let function = |header: u32| header & CHUNK_TYPE == ChunkKind::Function as u32 && header & CHUNK_INVERSE == 0;
    let records: Vec<(u32, u32, u32)> = base
        .chunks
        .iter()
        .filter(|c| function(c.header))
        .flat_map(|c| &c.records)
        .map(|r| (r.place, r.target, r.extra.first().copied().unwrap_or(0)))
        .collect();
    let first_bytes = |g: &GraftFunction, entry: u32| {
        let at = entry.checked_sub(g.site)? as usize;
        let bytes = g.expected.get(at..at.checked_add(2)?)?;
        Some(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    let ours: Vec<(u32, u32, u32)> = graft
        .functions
        .iter()
        .filter_map(|g| g.base_rva.map(|entry| (entry, g.patch_rva, first_bytes(g, entry).unwrap_or(u32::MAX))))
        .collect();
    f.require(ours == records, GRAFT_FUNCTIONS, || {
        let other = ours.iter().zip(&records).find(|(a, b)| a != b);
        format!("{} functions, {} records, first difference {other:x?}", ours.len(), records.len())
    });
    let mut sites: Vec<(u32, u32, &str)> = Vec::new();
    for g in &graft.functions {
        let code = is_code(view, g.patch_rva);
        match g.base_rva {
            Some(entry) => {
                let expected = match g.method {
                    Some(EntryMethod::PaddedShortJump) => Some((entry.wrapping_sub(6), 8)),
                    Some(EntryMethod::NearJump) => Some((entry, 5)),
                    None => None,
                };
                let fits = expected == Some((g.site, g.expected.len()));
                let held = inside(g.site, g.expected.len() as u32, graft.base.image_size);
                f.require(fits && held && code, GRAFT_SITES, || {
                    format!("{}: {:?} at {:#x}, {} bytes", g.name, g.method, g.site, g.expected.len())
                });
                sites.push((g.site, g.expected.len() as u32, &g.name));
            }
            None => {
                let clean =
                    g.method.is_none() && g.expected.is_empty() && g.site == 0 && g.base_size == 0 && !g.quiesce;
                f.require(clean && code, GRAFT_ADDED, || format!("{} at {:#x}", g.name, g.patch_rva));
            }
        }
    }
    sites.sort_unstable();
    for pair in sites.windows(2).filter(|p| p[1].0 < p[0].0.saturating_add(p[0].1)) {
        f.add(GRAFT_SITES, format!("the sites of {} and {} overlap", pair[0].2, pair[1].2));
    }
    let added = graft.functions.iter().skip_while(|g| g.base_rva.is_some());
    let sorted = ours.is_sorted() && added.is_sorted_by(|a, b| b.base_rva.is_none() && a.patch_rva < b.patch_rva);
    let texts = graft.cves.is_sorted_by(|a, b| a < b) && graft.accepted.is_sorted_by(|a, b| a < b);
    let lists = graft.near.is_sorted() && graft.guarded.is_sorted();
    f.require(sorted && texts && lists, GRAFT_CANONICAL, || "a list is not sorted".into());
}

fn is_code(view: &View<'_>, rva: u32) -> bool {
    view.section_at(rva).is_some_and(|s| s.characteristics & 0x2000_0000 != 0)
}

fn near(view: &View<'_>, graft: &Graft, relocations: &[u32], f: &mut Findings) {
    let mut end = 0u32;
    for n in &graft.near {
        let field =
            view.bytes(n.site, 4).is_some() && n.site >= end && !touches(relocations, view.pointer_size(), n.site, 4);
        // The end of the instruction; for a difference in data, what it counts from.
        let origin = if is_code(view, n.site) {
            n.origin.checked_sub(n.site).is_some_and(|d| (4..=8).contains(&d))
        } else {
            n.origin < view.size_of_image
        };
        f.require(field && origin && n.target <= graft.base.image_size, GRAFT_NEAR, || {
            format!("field {:#x}, origin {:#x}, target {:#x}", n.site, n.origin, n.target)
        });
        end = n.site.saturating_add(4);
    }
}

fn guarded(graft: &Graft, f: &mut Findings) {
    for g in &graft.guarded {
        f.require(g.size != 0 && inside(g.rva, g.size, graft.base.image_size), GRAFT_GUARDED, || {
            format!("{} at {:#x}, {} bytes", g.name, g.rva, g.size)
        });
    }
    for function in &graft.functions {
        let Some(entry) = function.base_rva else { continue };
        let covered = graft
            .guarded
            .iter()
            .any(|g| g.kind == GuardedKind::Replaced && g.rva == entry && g.size >= function.base_size);
        f.require(covered && function.base_size != 0, GRAFT_GUARDED, || format!("{} is not covered", function.name));
    }
}
