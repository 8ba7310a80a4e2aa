//! From one set of redirects to another: find a moment at which no thread stands where bytes change, and change them
//! all at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::apply::Phase;
use crate::error::ApplyError;
use crate::exchange::{Exchange, Exchanged, Forbidden};
use crate::identity::hex;
use crate::lineage::describe;
use crate::memory::read_bytes;
use crate::redirect::{Redirect, jump_target};
use crate::space::{AddressSpace, CodeWrite};

/// Time between two attempts: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Asked before each phase; false stops there.
pub(crate) type Hook<'a> = &'a dyn Fn(Phase) -> bool;

/// A range that no thread may be in, and the function that it belongs to.
type Named = (Forbidden, String);

/// How the pause went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Time for which the threads of the successful attempt stood still.
    pub pause: Duration,
    /// Attempts, the successful one included.
    pub attempts: u32,
}

/// The redirects before and after.
pub(crate) struct Transition<'a> {
    pub from: Vec<Redirect<'a>>,
    pub to: Vec<Redirect<'a>>,
}

impl Transition<'_> {
    fn all(&self) -> impl Iterator<Item = &Redirect<'_>> {
        self.from.iter().chain(&self.to)
    }

    /// Bytes of all sites: (before, after).
    fn bytes(&self) -> (BTreeMap<u64, u8>, BTreeMap<u64, u8>) {
        let mut original = BTreeMap::new();
        self.all().for_each(|redirect| redirect.put_original(&mut original));
        let (mut before, mut after) = (original.clone(), original);
        self.from.iter().for_each(|redirect| redirect.put_redirect(&mut before));
        self.to.iter().for_each(|redirect| redirect.put_redirect(&mut after));
        (before, after)
    }

    /// The original bytes under the redirects that are active before.
    pub fn originals(&self) -> BTreeMap<u64, u8> {
        let mut bytes = BTreeMap::new();
        self.from.iter().for_each(|redirect| redirect.put_original(&mut bytes));
        bytes
    }

    /// The changed bytes as writes: what lies in front of an entry first, so that an entry never leads to padding that
    /// is not ready; on the way back the entries first.
    fn writes(&self) -> Vec<CodeWrite> {
        let (before, after) = self.bytes();
        let entries: Vec<u64> = self.all().map(Redirect::entry_address).collect();
        let mut writes: Vec<CodeWrite> = Vec::new();
        for (&address, &byte) in &after {
            if before.get(&address) == Some(&byte) {
                continue;
            }
            match writes.last_mut() {
                Some(last) if last.address + last.bytes.len() as u64 == address && !entries.contains(&address) => {
                    last.bytes.push(byte);
                }
                _ => writes.push(CodeWrite { address, bytes: vec![byte] }),
            }
        }
        let redirected: Vec<u64> = self.to.iter().map(Redirect::entry_address).collect();
        writes.sort_by_key(|write| {
            let at_entry = entries.iter().any(|&entry| write.address >= entry && write.address < entry + 5);
            let in_front_of = entries.iter().find(|&&entry| write.address < entry && entry <= write.address + 5);
            let on_the_way_back = in_front_of.is_some_and(|entry| !redirected.contains(entry));
            (at_entry as u8 + 2 * on_the_way_back as u8, write.address)
        });
        writes
    }

    /// What the sites hold before.
    fn sites(&self) -> Vec<CodeWrite> {
        let (before, _) = self.bytes();
        self.at_sites(&before)
    }

    fn at_sites(&self, bytes: &BTreeMap<u64, u8>) -> Vec<CodeWrite> {
        let of = |redirect: &Redirect<'_>| {
            let site = redirect.site();
            let end = site + redirect.entry.expected.len() as u64;
            CodeWrite { address: site, bytes: bytes.range(site..end).map(|(_, &byte)| byte).collect() }
        };
        self.all().map(of).collect()
    }

    /// Every site must hold what it holds before, else somebody else was there.
    pub fn check_sites(&self, space: &dyn AddressSpace) -> Result<(), ApplyError> {
        for (redirect, expected) in self.all().zip(&self.sites()) {
            let found = read_bytes(space, expected.address, expected.bytes.len())?;
            if found != expected.bytes {
                return Err(foreign_hook(space, redirect, expected, &found));
            }
        }
        Ok(())
    }

    fn forbidden(&self, writes: &[CodeWrite]) -> Vec<Named> {
        let mut all = Vec::new();
        for redirect in self.all() {
            let entry = redirect.entry_address();
            let (before, after) = crate::redirect::extent(redirect.entry.method);
            // The bytes of the redirect as a whole: a jump whose distance alone changes must not be torn either.
            let (start, end) = (entry - before, entry + after);
            let changes = |write: &CodeWrite| write.address < end && write.address + write.bytes.len() as u64 > start;
            if writes.iter().any(changes) {
                // Whole instructions begin at the entry and at the first byte, before and after.
                let harmless = [entry, start];
                let range = Forbidden { start, end, harmless_ips: harmless, harmless_returns: harmless };
                all.push((range, redirect.entry.name.clone()));
            }
        }
        let kept = |redirect: &Redirect<'_>, others: &[Redirect<'_>]| {
            others.iter().any(|o| o.entry.base_rva == redirect.entry.base_rva && o.target() == redirect.target())
        };
        for redirect in self.to.iter().filter(|redirect| redirect.entry.quiesce && !kept(redirect, &self.from)) {
            let entry = redirect.entry_address();
            all.push((whole(entry, redirect.entry.base_size), redirect.entry.name.clone()));
            let same = |old: &&Redirect<'_>| old.entry.base_rva == redirect.entry.base_rva;
            all.extend(self.from.iter().filter(same).map(replacement));
        }
        all.extend(self.from.iter().filter(|old| old.entry.quiesce && !kept(old, &self.to)).map(replacement));
        all
    }

    /// Wait for a safe moment and make the change. On any error but [`ApplyError::ChangedAfterwards`] the code is what it
    /// was.
    pub fn run(&self, space: &mut dyn AddressSpace, time_limit: Duration, hook: Hook<'_>) -> Result<Pause, ApplyError> {
        let writes = self.writes();
        let (forbidden, functions): (Vec<Forbidden>, Vec<String>) = self.forbidden(&writes).into_iter().unzip();
        let expected = self.sites();
        let exchange = Exchange { forbidden: &forbidden, expected: &expected, writes: &writes };
        let started = Instant::now();
        let mut wait = FIRST_WAIT;
        let mut attempts = 0;
        // Who was in the way at the last attempt.
        let mut last: Option<(u32, u64, usize)> = None;
        loop {
            // As long as that thread is still there, the others need not stand still to find that out.
            let still = match last {
                Some((thread, _, range)) => space.probe(thread, &forbidden[range..=range])?,
                None => None,
            };
            if still.is_none() {
                attempts += 1;
                Phase::Suspend.ask(hook)?;
                match space.exchange(&exchange, hook)? {
                    Exchanged::Done { pause } => {
                        hook(Phase::Resume);
                        self.check_afterwards(space)?;
                        return Ok(Pause { pause, attempts });
                    }
                    Exchanged::InTheWay { thread, address, range } => last = Some((thread, address, range)),
                    Exchanged::Changed { index } => return Err(self.changed(space, index, &expected)),
                    Exchanged::Stopped(phase) => return Err(ApplyError::Stopped(phase.name())),
                }
            }
            let waited = started.elapsed();
            if let Some((thread, address, range)) = last
                && waited >= time_limit
            {
                let function = functions.get(range).cloned().unwrap_or_default();
                return Err(ApplyError::ThreadInTheWay { thread, function, address, attempts, waited });
            }
            std::thread::sleep(wait.min(time_limit.saturating_sub(waited)));
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Sites that are other than they were a moment ago.
    fn changed(&self, space: &dyn AddressSpace, index: usize, expected: &[CodeWrite]) -> ApplyError {
        match (self.all().nth(index), expected.get(index)) {
            (Some(redirect), Some(expected)) => match read_bytes(space, expected.address, expected.bytes.len()) {
                Ok(found) => foreign_hook(space, redirect, expected, &found),
                // Its image is gone.
                Err(error) => error.into(),
            },
            _ => ApplyError::Stopped(Phase::CheckSites.name()),
        }
    }

    /// Now the sites hold what they hold after, unless somebody else was quick.
    fn check_afterwards(&self, space: &dyn AddressSpace) -> Result<(), ApplyError> {
        let (_, after) = self.bytes();
        for (redirect, expected) in self.all().zip(&self.at_sites(&after)) {
            // The target may have ended or unloaded the image since; that takes nothing from what was done.
            let Ok(found) = read_bytes(space, expected.address, expected.bytes.len()) else {
                continue;
            };
            if found != expected.bytes {
                return Err(ApplyError::ChangedAfterwards {
                    function: redirect.entry.name.clone(),
                    address: expected.address,
                    expected: hex(&expected.bytes),
                    found: hex(&found),
                });
            }
        }
        Ok(())
    }
}

fn foreign_hook(space: &dyn AddressSpace, redirect: &Redirect<'_>, expected: &CodeWrite, found: &[u8]) -> ApplyError {
    let entry = redirect.entry_address();
    let at = ((entry - expected.address) as usize).min(found.len());
    let leads_to = jump_target(entry, &found[at..], &found[..at]);
    ApplyError::ForeignHook {
        function: redirect.entry.name.clone(),
        address: expected.address,
        expected: hex(&expected.bytes),
        found: hex(found),
        leads_to: leads_to.map(|address| describe(space, address)),
    }
}

/// A whole function, its first instruction included: a loop may lead back there. No call of it returns there, so a value
/// on a stack is a pointer to it. A call that is its last instruction returns to where the next function begins, so that
/// address counts as a return address, and does no harm as an instruction pointer.
fn whole(start: u64, size: u32) -> Forbidden {
    let end = start + size as u64;
    Forbidden { start, end: end + 1, harmless_ips: [end; 2], harmless_returns: [start; 2] }
}

/// The replacement that an old redirect leads to.
fn replacement(old: &Redirect<'_>) -> Named {
    (whole(old.target(), old.entry.patch_size), old.entry.name.clone())
}
