//! What may follow what: one chain of baselines, on each of them cumulative hotpatches with growing sequence numbers.

use crate::catalog::{Baseline, Catalog, Cause, Event, Fixes, Hotpatch, Revoke};
use crate::error::{Error, Result};
use crate::time::Time;
use std::collections::BTreeSet;

/// Keys of all rules with what they forbid, for documentation and tests.
pub const RULES: &[(&str, &str)] = &[
    ("chain.base.wrong", "a patch for an image that the baseline does not have"),
    ("chain.baseline.none", "a hotpatch before the first baseline"),
    ("chain.baseline.old", "a hotpatch on a baseline that is not the latest, or no longer supported"),
    ("chain.cve.form", "an id that is not of the form CVE-YEAR-NUMBER"),
    ("chain.cve.lost", "a release without a fix that an earlier one, not revoked, has"),
    ("chain.date.back", "a date before that of the entry before"),
    ("chain.id.form", "an id with other characters than letters, digits, dot, hyphen and underscore"),
    ("chain.id.taken", "an id that another release has"),
    ("chain.image.lost", "a hotpatch without a patch for an image that its predecessor patches"),
    ("chain.image.none", "a release without images"),
    ("chain.image.twice", "one image twice in a release"),
    ("chain.image.unknown", "a fix in an image that the release does not have"),
    ("chain.needs_predecessor", "a patch that needs another one to be applied before it"),
    (
        "chain.not_equal",
        "a successor after whose application the process differs from one that never had a predecessor",
    ),
    ("chain.patch.other", "a patch whose contents say something else than the release"),
    ("chain.planned.month", "a planned baseline in a month for which none is planned"),
    ("chain.revoke.twice", "a revocation of what is revoked"),
    ("chain.revoke.unknown", "a revocation of a hotpatch that does not exist"),
    ("chain.sequence.back", "a sequence number that is not above the last"),
    ("chain.sequence.gap", "a sequence number that leaves one out"),
    ("chain.supersedes.wrong", "a release that does not supersede the one before it"),
    ("chain.support.none", "a baseline whose support ends before it begins"),
];

/// Whether the event may follow.
///
/// # Errors
/// [`Error::Refused`] with the key of a rule of [`RULES`].
pub fn check(catalog: &Catalog, date: Time, event: &Event) -> Result<()> {
    if let Some(last) = catalog.history.last().filter(|last| last.date > date) {
        return Err(Error::refused(
            "chain.date.back",
            format!("{date} is before {}, the date of entry {}", last.date, last.number),
        ));
    }
    match event {
        Event::Baseline(baseline) => check_baseline(catalog, date, baseline),
        Event::Hotpatch(hotpatch) => check_hotpatch(catalog, date, hotpatch),
        Event::Revoke(revoke) => check_revoke(catalog, revoke),
    }
}

fn check_id(catalog: &Catalog, id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || id.len() > 64 || !id.chars().all(fine) || id.starts_with('.') || id.ends_with('.') {
        return Err(Error::refused(
            "chain.id.form",
            format!("{id:?}: expected letters, digits, dots, hyphens and underscores"),
        ));
    }
    let taken = catalog.baselines().any(|(_, b)| b.id == id) || catalog.hotpatches().any(|(_, h)| h.id == id);
    if taken { Err(Error::refused("chain.id.taken", format!("there is a release {id}"))) } else { Ok(()) }
}

/// Whether an id is of the form that the CVE programme gives out.
pub fn is_cve(id: &str) -> bool {
    let mut parts = id.split('-');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|p| p.len() >= 4 && p.len() <= most && p.bytes().all(|b| b.is_ascii_digit()))
    };
    parts.next() == Some("CVE") && digits(parts.next(), 4) && digits(parts.next(), 19) && parts.next().is_none()
}

fn check_fixes<'a>(fixes: &Fixes, images: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut names = BTreeSet::new();
    for image in images {
        if !crate::files::is_safe(image) || image.contains('/') {
            return Err(Error::refused("chain.id.form", format!("{image:?}: expected a file name")));
        }
        if !names.insert(image.to_ascii_lowercase()) {
            return Err(Error::refused("chain.image.twice", format!("{image} is there twice")));
        }
    }
    if names.is_empty() {
        return Err(Error::refused("chain.image.none", "the release has no image"));
    }
    for (cve, images) in fixes {
        if !is_cve(cve) {
            return Err(Error::refused("chain.cve.form", format!("{cve:?}: expected an id like CVE-2026-0001")));
        }
        let unknown = images.iter().find(|image| !names.contains(&image.to_ascii_lowercase()));
        if images.is_empty() || unknown.is_some() {
            let which = unknown.map_or("no image".to_owned(), |u| format!("{u}, which the release does not have"));
            return Err(Error::refused("chain.image.unknown", format!("{cve} is fixed in {which}")));
        }
    }
    Ok(())
}

/// Fixes of the last hotpatch that counts must be in what comes after it.
fn check_kept(what: &str, fixes: &Fixes, before: &Hotpatch) -> Result<()> {
    for (cve, images) in &before.fixes {
        let kept = fixes.get(cve).is_some_and(|now| images.is_subset(now));
        if !kept {
            let text = format!("{what} does not have {cve}, which {} fixes (revoke {0} if it must go)", before.id);
            return Err(Error::refused("chain.cve.lost", text));
        }
    }
    Ok(())
}

fn check_baseline(catalog: &Catalog, date: Time, baseline: &Baseline) -> Result<()> {
    check_id(catalog, &baseline.id)?;
    check_fixes(&baseline.fixes, baseline.images.iter().map(|image| image.name.as_str()))?;
    let before = catalog.latest_baseline();
    if baseline.supersedes.as_deref() != before.map(|b| b.id.as_str()) {
        let wanted = before.map_or("nothing".to_owned(), |b| b.id.clone());
        return Err(Error::refused("chain.supersedes.wrong", format!("{} must supersede {wanted}", baseline.id)));
    }
    if baseline.cause == Cause::Planned && !catalog.calendar.plans_baseline(date) && before.is_some() {
        let text = format!("none is planned for {}; an unplanned one says why it is needed", &date.day()[..7]);
        return Err(Error::refused("chain.planned.month", text));
    }
    if baseline.supported_until <= date {
        return Err(Error::refused("chain.support.none", format!("{} ends before it begins", baseline.id)));
    }
    match before.and_then(|b| catalog.latest_hotpatch(&b.id)) {
        Some(hotpatch) => {
            // An image may be gone with the baseline, and its fixes with it.
            let names: BTreeSet<&str> = baseline.images.iter().map(|i| i.name.as_str()).collect();
            let mut kept = hotpatch.clone();
            kept.fixes.values_mut().for_each(|images| images.retain(|image| names.contains(image.as_str())));
            kept.fixes.retain(|_, images| !images.is_empty());
            check_kept(&baseline.id, &baseline.fixes, &kept)
        }
        None => Ok(()),
    }
}

fn check_hotpatch(catalog: &Catalog, date: Time, hotpatch: &Hotpatch) -> Result<()> {
    check_id(catalog, &hotpatch.id)?;
    check_fixes(&hotpatch.fixes, hotpatch.patches.iter().map(|patch| patch.image.as_str()))?;
    let Some(latest) = catalog.latest_baseline() else {
        return Err(Error::refused("chain.baseline.none", format!("{} has no baseline to be for", hotpatch.id)));
    };
    if hotpatch.baseline != latest.id || date >= latest.supported_until {
        let text = format!(
            "{} is for {}; the latest baseline is {}, supported until {}",
            hotpatch.id, hotpatch.baseline, latest.id, latest.supported_until
        );
        return Err(Error::refused("chain.baseline.old", text));
    }
    for patch in &hotpatch.patches {
        let base = latest.images.iter().find(|image| image.name == patch.image);
        if base.is_none_or(|base| base.sha256 != patch.base_sha256) {
            let text = format!(
                "the patch for {} is made for {}, which {} does not have",
                patch.image, patch.base_sha256, latest.id
            );
            return Err(Error::refused("chain.base.wrong", text));
        }
    }
    // One chain of numbers for all baselines: an image that two baselines share remembers what it had.
    let last = catalog.hotpatches().map(|(_, h)| h.sequence).max().unwrap_or(0);
    if hotpatch.sequence <= last {
        return Err(Error::refused(
            "chain.sequence.back",
            format!("sequence {} is not above {last}", hotpatch.sequence),
        ));
    }
    if hotpatch.sequence != last + 1 {
        return Err(Error::refused(
            "chain.sequence.gap",
            format!("sequence {} is not {}", hotpatch.sequence, last + 1),
        ));
    }
    let before = catalog.latest_hotpatch(&latest.id);
    if hotpatch.supersedes.as_deref() != before.map(|h| h.id.as_str()) {
        let wanted = before.map_or("nothing".to_owned(), |h| h.id.clone());
        return Err(Error::refused("chain.supersedes.wrong", format!("{} must supersede {wanted}", hotpatch.id)));
    }
    if let Some(before) = before {
        let lost = before.patches.iter().find(|old| !hotpatch.patches.iter().any(|new| new.image == old.image));
        if let Some(lost) = lost {
            let text = format!("{} patches {}, {} does not", before.id, lost.image, hotpatch.id);
            return Err(Error::refused("chain.image.lost", text));
        }
        check_kept(&hotpatch.id, &hotpatch.fixes, before)?;
    }
    Ok(())
}

fn check_revoke(catalog: &Catalog, revoke: &Revoke) -> Result<()> {
    if !catalog.hotpatches().any(|(_, hotpatch)| hotpatch.id == revoke.hotpatch) {
        return Err(Error::refused("chain.revoke.unknown", format!("there is no hotpatch {}", revoke.hotpatch)));
    }
    if catalog.revoked(&revoke.hotpatch).is_some() {
        return Err(Error::refused("chain.revoke.twice", format!("{} is revoked already", revoke.hotpatch)));
    }
    Ok(())
}
