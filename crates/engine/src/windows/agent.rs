//! Our side of the agent: start it in the target, give it commands, read its answers.

use std::time::Duration;

use super::stub::{self, Command, at};
use super::sys::{self, Handle, Result, access};
use crate::space::{CodeWrite, PAGE, SpaceError, pages};

/// Bytes of the agent's memory in the target: code, block and lists.
const SIZE: u64 = 0x10_0000;
/// Offsets of block and lists from the start of the agent's memory.
const BLOCK: u64 = PAGE;
const DATA: u64 = PAGE + 0x1000;
const DATA_SIZE: u64 = 0x4_0000;
const THREADS: u64 = DATA + DATA_SIZE;
const CAPACITY: u64 = (SIZE - THREADS) / 16;
/// For how long an answer is waited for. Calls load DLLs, which can take a while.
const PATIENCE: Duration = Duration::from_secs(10);
/// PAGE_EXECUTE_READ.
const EXECUTE_READ: u32 = 0x20;

/// A thread of ours in the target.
#[derive(Debug)]
pub(super) struct Agent {
    memory: u64,
    thread: Handle,
    request: Handle,
    reply: Handle,
    /// False once it did not answer in time: its memory must stay then.
    answers: bool,
}

fn refused<T>(operation: &'static str, message: impl Into<String>) -> Result<T> {
    Err(SpaceError { operation, address: 0, size: 0, message: message.into() })
}

impl Agent {
    /// Start the agent. `resolve` gives addresses of ntdll's functions in the target.
    pub fn start(process: &Handle, resolve: impl Fn(&str) -> Result<u64>) -> Result<Agent> {
        let functions = stub::FUNCTIONS.iter().map(|name| resolve(name)).collect::<Result<Vec<u64>>>()?;
        let flush = resolve("NtFlushInstructionCache")?;
        let memory = sys::allocate(process, 0, SIZE)?;
        let started = (|| {
            let code = stub::code();
            sys::write(process, memory, &code)?;
            sys::protect(process, memory, PAGE, EXECUTE_READ)?;
            sys::flush(process, memory, code.len() as u64)?;
            let (request, reply) = (sys::event()?, sys::event()?);
            let block = memory + BLOCK;
            let mut put = vec![0u8; at::END as usize];
            let mut set = |offset: u64, value: u64| {
                put[offset as usize..offset as usize + 8].copy_from_slice(&value.to_le_bytes());
            };
            for (index, function) in functions.iter().enumerate() {
                set(at::FUNCTIONS + index as u64 * 8, *function);
            }
            set(stub::FLUSH_SLOT, flush);
            set(at::CAPACITY, CAPACITY);
            set(at::THREADS, memory + THREADS);
            set(at::REQUEST, sys::give(process, &request, access::EVENT)?);
            set(at::OWNER, sys::give_self(process)?);
            set(at::REPLY, sys::give(process, &reply, access::EVENT)?);
            sys::write(process, block, &put)?;
            let thread = sys::create_thread(process, memory, block)?;
            Ok(Agent { memory, thread, request, reply, answers: true })
        })();
        if started.is_err() {
            let _ = sys::free(process, memory);
        }
        let mut agent = started?;
        // A first command shows that it runs: a new thread waits for the loader lock.
        agent.command(process, Command::Resume).map_err(|error| SpaceError {
            message: format!("{} (a thread of the target may hold the loader lock)", error.message),
            ..error
        })?;
        Ok(agent)
    }

    fn command(&mut self, process: &Handle, command: Command) -> Result<()> {
        if !self.answers {
            return refused("ask the agent", "it did not answer before");
        }
        sys::write(process, self.memory + BLOCK + at::COMMAND, &(command as u32).to_le_bytes())?;
        sys::set_event(&self.request)?;
        match sys::wait(&[&self.reply, &self.thread, process], PATIENCE.as_millis() as u32) {
            Some(0) => {}
            Some(_) => return refused("ask the agent", "the target or its agent thread has ended"),
            None => {
                // Whatever it does once it runs: end. Any thread that it may have suspended runs again then.
                self.answers = false;
                let exit = (Command::Exit as u32).to_le_bytes();
                let _ = sys::write(process, self.memory + BLOCK + at::COMMAND, &exit);
                return refused("ask the agent", format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
        let mut status = [0; 4];
        sys::read(process, self.memory + BLOCK + at::STATUS, &mut status)?;
        match u32::from_le_bytes(status) {
            0 => Ok(()),
            status => refused("agent", format!("{command:?}: NTSTATUS {status:#010x}")),
        }
    }

    /// Suspend all other threads; returns (handle in the target, thread id).
    pub fn suspend(&mut self, process: &Handle) -> Result<Vec<(u64, u32)>> {
        self.command(process, Command::Suspend)?;
        let mut count = [0; 8];
        sys::read(process, self.memory + BLOCK + at::COUNT, &mut count)?;
        let count = u64::from_le_bytes(count).min(CAPACITY) as usize;
        let mut table = vec![0; count * 16];
        sys::read(process, self.memory + THREADS, &mut table)?;
        Ok(table
            .chunks_exact(16)
            .filter_map(|entry| {
                let handle = u64::from_le_bytes(entry[..8].try_into().ok()?);
                let id = u64::from_le_bytes(entry[8..].try_into().ok()?);
                Some((handle, id as u32))
            })
            .collect())
    }

    /// Resume what was suspended.
    pub fn resume(&mut self, process: &Handle) -> Result<()> {
        self.command(process, Command::Resume)
    }

    /// Write all of `writes` or none.
    pub fn commit(&mut self, process: &Handle, writes: &[CodeWrite]) -> Result<()> {
        // Page by page, because the old protection is restored as it was on each.
        let runs = pages(writes);
        let single: Vec<u64> =
            runs.iter().flat_map(|&(start, size)| (start..start + size).step_by(PAGE as usize)).collect();
        let data = self.memory + DATA;
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
        sys::write(process, data, &lists)?;
        let block = self.memory + BLOCK;
        sys::write(process, block + at::PAGE_COUNT, &(single.len() as u64).to_le_bytes())?;
        sys::write(process, block + at::WRITE_COUNT, &(writes.len() as u64).to_le_bytes())?;
        sys::write(process, block + at::PAGES, &data.to_le_bytes())?;
        sys::write(process, block + at::WRITES, &writes_at.to_le_bytes())?;
        self.command(process, Command::Commit)
    }

    /// Call a function of the target.
    pub fn call(&mut self, process: &Handle, function: u64, arguments: &[u64]) -> Result<u64> {
        let block = self.memory + BLOCK;
        let mut six = [0u64; 6];
        for (slot, argument) in six.iter_mut().zip(arguments) {
            *slot = *argument;
        }
        let bytes: Vec<u8> = six.iter().flat_map(|value| value.to_le_bytes()).collect();
        sys::write(process, block + at::FUNCTION, &function.to_le_bytes())?;
        sys::write(process, block + at::ARGUMENTS, &bytes)?;
        self.command(process, Command::Call)?;
        let mut result = [0; 8];
        sys::read(process, block + at::RESULT, &mut result)?;
        Ok(u64::from_le_bytes(result))
    }

    /// Memory in the target for arguments of calls: (address, bytes).
    pub fn scratch(&self) -> (u64, u64) {
        (self.memory + DATA, DATA_SIZE)
    }

    /// End it and give its memory back.
    pub fn stop(self, process: &Handle) {
        let exit = (Command::Exit as u32).to_le_bytes();
        let asked = sys::write(process, self.memory + BLOCK + at::COMMAND, &exit).is_ok()
            && sys::set_event(&self.request).is_ok();
        if asked && self.answers && sys::wait(&[&self.thread], PATIENCE.as_millis() as u32).is_some() {
            let _ = sys::free(process, self.memory);
        }
        // Else its memory stays: a thread may still come to run there.
    }
}
