//! Keep processes patched: look at all of them again and again, and patch what has started or loaded the image since.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Access, LiveProcess, processes, sys};
use crate::apply::{Applied, ApplyOptions, apply};
use crate::error::ApplyError;
use crate::identity::{check_headers, find_base};
use crate::memory::MappedImage;
use crate::patch::PatchFile;
use crate::space::{AddressSpace, SpaceError};
use crate::state::query;

/// First and longest time after which a failure is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// However quick a pass is, the next one comes no sooner.
const SHORTEST_REST: Duration = Duration::from_millis(5);

/// A process and a patch for it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Process id.
    pub pid: u32,
    /// File name of its program.
    pub program: &'a str,
    /// Index of the patch.
    pub patch: usize,
}

/// Told before and after every attempt. An error ends the watch.
pub trait Observer {
    /// Why the watch ends.
    type Stop;
    /// A patch is about to be applied.
    fn before(&mut self, subject: Subject<'_>) -> Result<(), Self::Stop>;
    /// What came of it.
    fn after(&mut self, subject: Subject<'_>, outcome: &Result<Applied, ApplyError>) -> Result<(), Self::Stop>;
}

/// What one pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Images that have their patch, from now or from before.
    pub patched: usize,
    /// Images whose patch was refused, or could not be applied so far.
    pub unpatched: usize,
}

/// A digest of a patch file.
type Digest = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Patched,
    Unpatched,
    /// Not trusted, or its predecessor is missing: the next lower sequence counts.
    NextLower,
    /// The process has ended.
    Gone,
}

#[derive(Debug)]
struct Known {
    /// Held open, so that the process id stays that of this process.
    process: LiveProcess,
    /// What was decided for the image at an address.
    decided: BTreeMap<(u64, Digest), Answer>,
    failed: Option<(Instant, Duration)>,
}

/// What is known of the processes of the machine.
#[derive(Debug, Default)]
pub struct Watch {
    known: BTreeMap<u32, Known>,
    /// Processes that cannot be opened.
    closed: BTreeSet<u32>,
}

impl Watch {
    /// Nothing is known.
    pub fn new() -> Watch {
        Watch::default()
    }

    /// Look at every process whose program is one of `programs` (in lower case; empty: all) and apply the patch of the
    /// highest sequence to each image that one of `patches` is for. What was patched or refused once is not tried again
    /// while the image stays loaded; what a thread or the system prevented is tried again later.
    ///
    /// # Errors
    /// If processes cannot be listed, or `observer` stops the watch.
    pub fn pass<O: Observer>(
        &mut self,
        patches: &[PatchFile],
        programs: &[String],
        options: &ApplyOptions<'_>,
        observer: &mut O,
    ) -> Result<Result<Pass, O::Stop>, SpaceError> {
        let mut order: Vec<usize> = (0..patches.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(patches[index].graft().sequence));
        let listed = processes()?;
        self.known.retain(|pid, _| listed.iter().any(|process| process.pid == *pid));
        self.closed.retain(|pid| listed.iter().any(|process| process.pid == *pid));
        let mut pass = Pass::default();
        for process in &listed {
            let chosen = programs.is_empty() || programs.iter().any(|name| name.eq_ignore_ascii_case(&process.name));
            if !chosen || process.pid <= 4 || process.pid == std::process::id() || self.closed.contains(&process.pid) {
                continue;
            }
            let known = match self.known.entry(process.pid) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    match LiveProcess::open(process.pid, Access::Query) {
                        Ok(opened) => place.insert(Known { process: opened, decided: BTreeMap::new(), failed: None }),
                        Err(_) => {
                            self.closed.insert(process.pid);
                            continue;
                        }
                    }
                }
            };
            let subject = Subject { pid: process.pid, program: &process.name, patch: 0 };
            if let Err(stop) = known.look(subject, patches, &order, options, observer, &mut pass) {
                return Ok(Err(stop));
            }
        }
        Ok(Ok(pass))
    }
}

impl Known {
    fn look<O: Observer>(
        &mut self,
        subject: Subject<'_>,
        patches: &[PatchFile],
        order: &[usize],
        options: &ApplyOptions<'_>,
        observer: &mut O,
        pass: &mut Pass,
    ) -> Result<(), O::Stop> {
        // While it starts and when it ends, its list of images cannot be read.
        let Ok(images) = self.process.images() else {
            return Ok(());
        };
        self.decided.retain(|(base, _), _| images.iter().any(|(address, _)| address == base));
        for (base, name) in &images {
            let mut fitting = order
                .iter()
                .copied()
                .filter(|&index| patches[index].graft().base.file_name.eq_ignore_ascii_case(name))
                .peekable();
            if fitting.peek().is_none() {
                continue;
            }
            let Ok(image) = MappedImage::read(&self.process, *base) else {
                continue;
            };
            let mut answered = None;
            for index in fitting {
                if check_headers(&image, &patches[index].graft().base).is_err() {
                    continue;
                }
                let subject = Subject { patch: index, ..subject };
                answered = Some(self.decide(*base, subject, &patches[index], options, observer)?);
                if answered != Some(Answer::NextLower) {
                    break;
                }
            }
            match answered {
                Some(Answer::Patched) => pass.patched += 1,
                Some(Answer::Unpatched | Answer::NextLower) => pass.unpatched += 1,
                None | Some(Answer::Gone) => {}
            }
        }
        Ok(())
    }

    fn decide<O: Observer>(
        &mut self,
        base: u64,
        subject: Subject<'_>,
        patch: &PatchFile,
        options: &ApplyOptions<'_>,
        observer: &mut O,
    ) -> Result<Answer, O::Stop> {
        let key = (base, patch.sha256());
        if let Some(&answer) = self.decided.get(&key) {
            return Ok(answer);
        }
        if self.failed.is_some_and(|(at, wait)| at.elapsed() < wait) {
            return Ok(Answer::Unpatched);
        }
        // Patched by somebody else, or before this watch began.
        let sequence = patch.graft().sequence;
        let active = query(&self.process, Some(base)).ok().and_then(|images| images.first().and_then(|i| i.active));
        if active.is_some_and(|active| active >= sequence) {
            self.decided.insert(key, Answer::Patched);
            return Ok(Answer::Patched);
        }
        // What asks for a predecessor waits for it without being an attempt.
        if patch.info().min_sequence > active.unwrap_or(0) {
            return Ok(Answer::NextLower);
        }
        observer.before(subject)?;
        let (outcome, ended) = attempt(subject.pid, base, patch, options);
        let answer = match &outcome {
            Ok(_) => Answer::Patched,
            Err(_) if ended => Answer::Gone,
            // Whoever may put files into the catalog cannot keep a trusted patch out with them.
            Err(ApplyError::Policy(_)) => Answer::NextLower,
            Err(_) => Answer::Unpatched,
        };
        if let Err(ApplyError::ThreadInTheWay { .. } | ApplyError::Space(_) | ApplyError::Memory(_)) = &outcome
            && !ended
        {
            let wait = self.failed.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
            self.failed = Some((Instant::now(), wait));
        } else {
            self.failed = None;
            self.decided.insert(key, answer);
        }
        observer.after(subject, &outcome)?;
        Ok(answer)
    }
}

/// The outcome, and whether the process has ended meanwhile.
fn attempt(pid: u32, base: u64, patch: &PatchFile, options: &ApplyOptions<'_>) -> (Result<Applied, ApplyError>, bool) {
    let mut space = match LiveProcess::open(pid, Access::Change) {
        Ok(space) => space,
        Err(error) => return (Err(error.into()), false),
    };
    // The image may have been exchanged for another since it was looked at.
    let outcome = match find_base(&space, patch.graft()) {
        Ok(found) if found == base => apply(&mut space, base, patch, options),
        Ok(_) => Err(ApplyError::NoBase {
            file_name: patch.graft().base.file_name.clone(),
            reason: "it is loaded twice, or was loaded again meanwhile".into(),
        }),
        Err(error) => Err(error),
    };
    let ended = outcome.is_err() && sys::wait(&[&space.process], 0).is_some();
    (outcome, ended)
}

/// From now on Ctrl-C, Ctrl-Break and the closing of the console do not end this process: they are noticed by
/// [`interrupted`]. So nothing is left half-way.
pub fn notice_interrupts() {
    sys::notice_interrupts();
}

/// Wait; true as soon as an end was asked for.
pub fn interrupted(at_most: Duration) -> bool {
    sys::wait_for_interrupt(at_most)
}

/// How long to wait after a pass that took so long: looking takes no more than a twentieth of one processor.
pub fn rest(pass: Duration, at_most: Duration) -> Duration {
    (pass * 19).clamp(SHORTEST_REST.min(at_most), at_most)
}
