//! The service of the demo as a client sees it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wine::Wine;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running service and a connection to it that stays open.
pub struct Service {
    child: Child,
    connection: BufReader<TcpStream>,
    /// Its Windows process id.
    pub pid: u32,
    /// Its port on the loopback.
    pub port: u16,
}

impl Service {
    /// Starts `service.exe` in a folder and connects.
    ///
    /// # Errors
    /// If it does not start, or does not say where it listens.
    pub fn start(wine: &Wine, folder: &Path) -> Result<Self> {
        let mut child = wine
            .command(folder, "service.exe")
            .arg("service.log")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the service")?;
        let stdout = child.stdout.take().context("the service has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let number = |key: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            value.and_then(|digits| digits.parse::<u32>().ok()).with_context(|| format!("no {key} in {line:?}"))
        };
        let (pid, port) = (number("pid=")?, u16::try_from(number("port=")?)?);
        let stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect to the service")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { child, connection: BufReader::new(stream), pid, port })
    }

    /// Sends one line and returns the line that answers.
    ///
    /// # Errors
    /// If the connection breaks or the answer does not come.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        self.connection.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut answer = Vec::new();
        self.connection.read_until(b'\n', &mut answer).context("the service does not answer")?;
        ensure!(answer.ends_with(b"\n"), "the service closed the connection");
        Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(mut self) -> Result<()> {
        self.connection.get_mut().write_all(b"stop\n")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the service ended with {status}");
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After `stop` the process is gone, and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the service says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its uptime, in ticks.
    pub ticks: u64,
    /// Requests served.
    pub requests: usize,
    /// Lines written to the log.
    pub log: usize,
    /// Thread ids of its workers.
    pub workers: String,
}

impl State {
    /// Reads the answer to `state`.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(answer: &str) -> Result<Self> {
        let field = |key: &str| {
            let value = answer.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.with_context(|| format!("no {key} in {answer:?}"))
        };
        Ok(Self {
            ticks: field("ticks")?.parse()?,
            requests: field("requests")?.parse()?,
            log: field("log")?.parse()?,
            workers: field("workers")?.to_owned(),
        })
    }

    /// Is this the same process, later?
    ///
    /// # Errors
    /// If something started anew or was lost.
    pub fn follows(&self, earlier: &Self) -> Result<()> {
        ensure!(self.ticks > earlier.ticks, "the uptime went from {} to {}", earlier.ticks, self.ticks);
        ensure!(self.requests > earlier.requests, "the count of requests was lost");
        ensure!(self.log > earlier.log, "the log was lost");
        ensure!(self.workers == earlier.workers, "the threads were {}, now {}", earlier.workers, self.workers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn a_state_follows_an_earlier_one_of_the_same_threads() {
        let early = State::parse("ticks=3 requests=2 log=2 workers=8,9").unwrap();
        let late = State::parse("ticks=7 requests=4 log=4 workers=8,9").unwrap();
        assert!(late.follows(&early).is_ok());
        assert!(early.follows(&late).is_err());
        let other = State { workers: "8,10".to_owned(), ..late };
        assert!(other.follows(&early).is_err());
        assert!(State::parse("ticks=3 log=2").is_err());
    }
}
