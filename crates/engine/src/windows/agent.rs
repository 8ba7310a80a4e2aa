//! Our side of the agent: start it in the target, give it commands, read its answers.

use std::cell::Cell;
use std::time::Duration;

use super::stub::{self, Command, at, thread};
use super::sys::{self, Handle, Result, Shared, access};
use crate::space::{CodeWrite, PAGE, SpaceError, pages};

/// Bytes of the memory that is shared with the agent: block, lists, threads, copies of stacks.
const SIZE: u64 = 0x40_0000;
/// Offsets in it.
const CONTEXT: u64 = 0x400;
const DATA: u64 = 0x1000;
const DATA_SIZE: u64 = 0x4_0000;
const THREADS: u64 = DATA + DATA_SIZE;
const CAPACITY: u64 = 4096;
const STACKS: u64 = THREADS + CAPACITY * thread::SIZE;
/// For how long an answer is waited for. Calls load DLLs, which can take a while.
const PATIENCE: Duration = Duration::from_secs(10);
/// PAGE_EXECUTE_READ.
const EXECUTE_READ: u32 = 0x20;

/// A thread of ours in the target.
#[derive(Debug)]
pub(super) struct Agent {
    code: u64,
    shared: Shared,
    thread: Handle,
    request: Handle,
    reply: Handle,
    /// False once it did not answer in time: its memory must stay then.
    answers: Cell<bool>,
}

/// A suspended thread.
#[derive(Clone, Debug)]
pub(super) struct Suspended {
    pub id: u32,
    pub ip: u64,
    /// Integer registers by their number in encodings; 4 is the stack pointer.
    pub registers: [u64; 16],
    /// Where the copied part of the stack begins (VA).
    pub stack_at: u64,
    /// The stack from there to its start; empty if it could not be copied.
    pub stack: Vec<u8>,
}

fn refused<T>(operation: &'static str, message: impl Into<String>) -> Result<T> {
    Err(SpaceError { operation, address: 0, size: 0, message: message.into() })
}

impl Agent {
    /// Start the agent. `resolve` gives addresses of ntdll's functions in the target.
    pub fn start(process: &Handle, resolve: impl Fn(&str) -> Result<u64>) -> Result<Agent> {
        let shared = Shared::new(process, SIZE as usize)?;
        let set = |offset: u64, value: u64| shared.write(offset, &value.to_le_bytes());
        for (index, name) in stub::FUNCTIONS.iter().enumerate() {
            set(at::FUNCTIONS + index as u64 * 8, resolve(name)?);
        }
        for (name, slot) in stub::MORE_FUNCTIONS {
            set(slot, resolve(name)?);
        }
        set(at::CAPACITY, CAPACITY);
        set(at::THREADS, shared.theirs + THREADS);
        set(at::STACKS, shared.theirs + STACKS);
        set(at::STACKS_END, shared.theirs + SIZE);
        set(at::CONTEXT, shared.theirs + CONTEXT);
        let (request, reply) = (sys::event()?, sys::event()?);
        set(at::REQUEST, sys::give(process, &request, access::EVENT)?);
        set(at::OWNER, sys::give_self(process)?);
        set(at::REPLY, sys::give(process, &reply, access::EVENT)?);
        let code = sys::allocate(process, 0, PAGE)?;
        let started = (|| {
            let bytes = stub::code();
            sys::write(process, code, &bytes)?;
            sys::protect(process, code, PAGE, EXECUTE_READ)?;
            sys::flush(process, code, bytes.len() as u64)?;
            sys::create_thread(process, code, shared.theirs)
        })();
        let thread = match started {
            Ok(thread) => thread,
            Err(error) => {
                let _ = sys::free(process, code);
                shared.release(process);
                return Err(error);
            }
        };
        sys::hurry(&thread);
        let agent = Agent { code, shared, thread, request, reply, answers: Cell::new(true) };
        // A first command shows that it runs: a new thread waits for the loader lock.
        agent.command(process, Command::Resume).map_err(|error| SpaceError {
            message: format!("{} (a thread of the target may hold the loader lock)", error.message),
            ..error
        })?;
        Ok(agent)
    }

    /// False once it did not answer in time.
    pub fn answers(&self) -> bool {
        self.answers.get()
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.shared.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn set(&self, offset: u64, value: u64) {
        self.shared.write(offset, &value.to_le_bytes());
    }

    fn command(&self, process: &Handle, command: Command) -> Result<()> {
        if !self.answers.get() {
            return refused("ask the agent", "it did not answer before");
        }
        self.shared.write(at::COMMAND, &(command as u32).to_le_bytes());
        sys::set_event(&self.request)?;
        match sys::wait(&[&self.reply, &self.thread, process], PATIENCE.as_millis() as u32) {
            Some(0) => {}
            Some(_) => return refused("ask the agent", "the target or its agent thread has ended"),
            None => {
                // Whatever it does once it runs: end. Any thread that it may have suspended runs again then.
                self.answers.set(false);
                self.shared.write(at::COMMAND, &(Command::Exit as u32).to_le_bytes());
                return refused("ask the agent", format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
        match (self.word(at::COMMAND) >> 32) as u32 {
            0 => Ok(()),
            status => refused("agent", format!("{command:?}: NTSTATUS {status:#010x}")),
        }
    }

    /// Suspend all other threads and look at them.
    pub fn suspend(&self, process: &Handle) -> Result<Vec<Suspended>> {
        self.command(process, Command::Suspend)?;
        let count = self.word(at::COUNT).min(CAPACITY);
        let mut entry = [0; thread::SIZE as usize];
        let word = |entry: &[u8], at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        Ok((0..count)
            .map(|index| {
                self.shared.read(THREADS + index * thread::SIZE, &mut entry);
                let size = word(&entry, thread::STACK_SIZE).min(SIZE - STACKS);
                let mut stack = vec![0; size as usize];
                self.shared.read(word(&entry, thread::COPY).wrapping_sub(self.shared.theirs), &mut stack);
                Suspended {
                    id: word(&entry, thread::ID) as u32,
                    ip: word(&entry, thread::IP),
                    registers: std::array::from_fn(|number| word(&entry, thread::REGISTERS + number * 8)),
                    stack_at: word(&entry, thread::STACK),
                    stack,
                }
            })
            .collect())
    }

    /// Resume what was suspended.
    pub fn resume(&self, process: &Handle) -> Result<()> {
        self.command(process, Command::Resume)
    }

    /// Copy mapped memory of the target without asking the system, which is slow where it has to stop a thread for it.
    /// The caller knows that the memory is readable and stays so.
    pub fn peek(&self, process: &Handle, address: u64, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 > DATA_SIZE - 24 {
            return sys::read(process, address, out);
        }
        let theirs = self.shared.theirs + DATA;
        for (index, value) in [theirs + 24, address, out.len() as u64].into_iter().enumerate() {
            self.set(DATA + index as u64 * 8, value);
        }
        self.set(at::PAGE_COUNT, 0);
        self.set(at::WRITE_COUNT, 1);
        self.set(at::WRITES, theirs);
        self.command(process, Command::Commit)?;
        self.shared.read(DATA + 24, out);
        Ok(())
    }

    /// Write all of `writes` or none.
    pub fn commit(&self, process: &Handle, writes: &[CodeWrite]) -> Result<()> {
        // Page by page, because the old protection is restored as it was on each.
        let runs = pages(writes);
        let single: Vec<u64> =
            runs.iter().flat_map(|&(start, size)| (start..start + size).step_by(PAGE as usize)).collect();
        let data = self.shared.theirs + DATA;
        let mut lists = Vec::new();
        for page in &single {
            for value in [*page, PAGE, 0, 0] {
                lists.extend_from_slice(&value.to_le_bytes());
            }
        }
        let writes_at = data + lists.len() as u64;
        let mut bytes_at = writes_at + writes.len() as u64 * 24;
        for write in writes {
            for value in [write.address, bytes_at, write.bytes.len() as u64] {
                lists.extend_from_slice(&value.to_le_bytes());
            }
            bytes_at += write.bytes.len() as u64;
        }
        writes.iter().for_each(|write| lists.extend_from_slice(&write.bytes));
        if lists.len() as u64 > DATA_SIZE {
            return refused("commit", format!("{} writes are more than fit", writes.len()));
        }
        self.shared.write(DATA, &lists);
        self.set(at::PAGE_COUNT, single.len() as u64);
        self.set(at::WRITE_COUNT, writes.len() as u64);
        self.set(at::PAGES, data);
        self.set(at::WRITES, writes_at);
        self.command(process, Command::Commit)
    }

    /// Call a function of the target.
    pub fn call(&self, process: &Handle, function: u64, arguments: &[u64]) -> Result<u64> {
        self.set(at::FUNCTION, function);
        for index in 0..6 {
            self.set(at::ARGUMENTS + index as u64 * 8, arguments.get(index).copied().unwrap_or(0));
        }
        self.command(process, Command::Call)?;
        Ok(self.word(at::RESULT))
    }

    /// Put arguments of a call where the target finds them; returns their address there.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        self.shared.write(DATA, bytes);
        self.shared.theirs + DATA
    }

    /// A word of what was put.
    pub fn result(&self, offset: u64) -> u64 {
        self.word(DATA + offset)
    }

    /// End it and give its memory back.
    pub fn stop(self, process: &Handle) {
        self.shared.write(at::COMMAND, &(Command::Exit as u32).to_le_bytes());
        let asked = sys::set_event(&self.request).is_ok();
        if asked && self.answers.get() && sys::wait(&[&self.thread], PATIENCE.as_millis() as u32).is_some() {
            let _ = sys::free(process, self.code);
            self.shared.release(process);
        }
        // Else its memory stays: a thread may still come to run there.
    }
}
