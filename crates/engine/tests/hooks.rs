//! Hooks of patches on a buffer, which notes calls instead of making them.

mod support;

use std::time::Duration;

use hotgraft_engine::{
    AddressSpace, ApplyError, ApplyOptions, BufferSpace, PatchFile, Phase, RollbackOptions, Trust, apply, rollback,
};
use hotgraft_hotpatch::HookPoint;
use support::*;

const AT: u64 = 0x7ff6_1234_0000;

fn trial() -> ApplyOptions<'static> {
    ApplyOptions { trust: Trust::trial(), time_limit: Duration::from_millis(20), ..ApplyOptions::default() }
}

fn loaded() -> BufferSpace {
    let mut space = BufferSpace::new();
    space.load(BASE_NAME, &base_file(), AT).unwrap();
    space
}

fn with(points: &[HookPoint]) -> PatchFile {
    let mut spec = first(&base_file());
    spec.hooks = points.to_vec();
    PatchFile::parse(&spec.build()).unwrap()
}

/// The base in memory, without an operation that could be the one to fail.
fn image(space: &BufferSpace) -> Vec<u8> {
    space.snapshot().into_iter().find(|block| block.0 == AT).unwrap().1
}

#[test]
fn hooks_run_at_their_points_while_nothing_stands_still() {
    let mut space = loaded();
    let fresh = image(&space);
    let applied = apply(&mut space, AT, &with(&HookPoint::ALL), &trial()).unwrap();
    let hook = applied.patch_address + u64::from(PATCH_TEXT);
    assert_eq!(space.calls(), [hook; 2]);
    let back = rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
    assert_eq!((back.repair, space.calls().len()), (None, 4));
    assert_eq!(image(&space), fresh);
    // The same patch again: its image is used again, and its hooks run again.
    assert!(apply(&mut space, AT, &with(&HookPoint::ALL), &trial()).unwrap().reused);
    assert_eq!(space.calls().len(), 6);
}

#[test]
fn a_veto_leaves_everything_as_it_was() {
    let mut space = loaded();
    let before = space.snapshot();
    space.set_results(vec![5]);
    let error = apply(&mut space, AT, &with(&[HookPoint::PreApply]), &trial()).unwrap_err();
    assert!(matches!(error, ApplyError::Veto { hook: "hotgraft_pre_apply", value: 5 }), "{error}");
    assert!(error.is_refusal());
    assert_eq!(space.snapshot(), before, "memory is given back too");

    apply(&mut space, AT, &with(&[HookPoint::PreApply, HookPoint::PreRollback]), &trial()).unwrap();
    let active = image(&space);
    space.set_results(vec![-1]);
    let error = rollback(&mut space, AT, &RollbackOptions::default()).unwrap_err();
    assert!(matches!(error, ApplyError::Veto { hook: "hotgraft_pre_rollback", value: -1 }), "{error}");
    assert_eq!(image(&space), active);
    rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
}

#[test]
fn a_repair_that_fails_takes_the_patch_back() {
    let mut space = loaded();
    let fresh = image(&space);
    space.set_results(vec![0, 7]);
    let error = apply(&mut space, AT, &with(&[HookPoint::PreApply, HookPoint::PostApply]), &trial()).unwrap_err();
    assert!(matches!(error, ApplyError::Repair { active: false, .. }), "{error}");
    assert!(error.to_string().contains("hotgraft_post_apply of the patch returned 7"), "{error}");
    assert_eq!(image(&space), fresh);
    // A thread may be in the patch still: its code stays.
    let code = space.calls()[1];
    assert!(space.read(code, &mut [0; 16]).is_ok());
    assert!(!space.is_suspended());
}

#[test]
fn what_runs_after_a_rollback_cannot_undo_it() {
    let mut space = loaded();
    let fresh = image(&space);
    apply(&mut space, AT, &with(&[HookPoint::PostRollback]), &trial()).unwrap();
    assert!(space.calls().is_empty());
    space.set_results(vec![3]);
    let back = rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
    assert_eq!(back.repair.as_deref(), Some("hotgraft_post_rollback of the patch returned 3"));
    assert_eq!(image(&space), fresh);
}

#[test]
fn whatever_fails_on_the_way_the_image_is_as_before_or_patched() {
    let patch = with(&HookPoint::ALL);
    let mut space = loaded();
    let fresh = image(&space);
    apply(&mut space, AT, &patch, &trial()).unwrap();
    let (steps, active) = (space.operations(), image(&space));
    for step in 0..steps {
        let mut space = loaded();
        space.fail_after(step);
        match apply(&mut space, AT, &patch, &trial()) {
            Ok(_) => assert_eq!(image(&space), active, "step {step}"),
            Err(ApplyError::Repair { active: true, .. }) => panic!("step {step}: one fault, and it is still active"),
            Err(_) => assert_eq!(image(&space), fresh, "step {step}"),
        }
        assert!(!space.is_suspended());
    }
}

#[test]
fn no_hook_runs_before_the_checks() {
    let mut space = loaded();
    for last in [Phase::CheckPolicy, Phase::CheckMemory, Phase::Protect] {
        let stop = |phase: Phase| phase != last;
        let options = ApplyOptions { hook: &stop, ..trial() };
        assert!(apply(&mut space, AT, &with(&HookPoint::ALL), &options).is_err());
        assert!(space.calls().is_empty());
    }
}
