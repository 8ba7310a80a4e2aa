//! Collected states of machines over time, in SQLite.
//!
//! Most machines are in one of few states, and stay there for weeks. So a state is kept once (`level`), a machine has spans
//! of days in one state, and for each day it is counted how many machines are in which state: what a fleet report asks is
//! answered from the counts, whatever the number of machines.

use crate::canonical;
use crate::documents::Subject;
use crate::error::{Error, Result};
use crate::time::{DAY, Time};
use crate::truth::State;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS machine (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        first_day INTEGER NOT NULL, last_day INTEGER NOT NULL, level INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS level (id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, baseline TEXT, hotpatch TEXT,
        file_build TEXT, effective_build TEXT, action TEXT NOT NULL, behind INTEGER NOT NULL, restart INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS level_cve (level INTEGER NOT NULL, cve TEXT NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (level, cve)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS span (machine INTEGER NOT NULL, first_day INTEGER NOT NULL, last_day INTEGER NOT NULL,
        level INTEGER NOT NULL, PRIMARY KEY (machine, first_day)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS span_level ON span (level, last_day, first_day, machine);
    CREATE INDEX IF NOT EXISTS machine_level ON machine (level, last_day, first_day, name);
    CREATE TABLE IF NOT EXISTS day_count (day INTEGER NOT NULL, level INTEGER NOT NULL, machines INTEGER NOT NULL,
        PRIMARY KEY (day, level)) WITHOUT ROWID;
";
const FORMAT: &str = "hotgraft.release.store/1";

/// A state that machines are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Level {
    /// Baseline of the files.
    pub baseline: Option<String>,
    /// Hotpatch that is active everywhere.
    pub hotpatch: Option<String>,
    /// What the files state.
    pub file_build: Option<String>,
    /// What the machine is as secure as.
    pub effective_build: Option<String>,
    /// What it has to do.
    pub action: String,
    /// Baselines behind.
    pub behind: u64,
    /// Whether it has to restart for that.
    pub restart: bool,
    /// State of each CVE.
    pub cves: BTreeMap<String, String>,
}

impl Level {
    /// The state of a machine.
    pub fn of(subject: &Subject) -> Level {
        let (truth, plan) = (&subject.truth, &subject.plan);
        let action = serde_json::to_value(plan.action).ok().and_then(|v| v.as_str().map(str::to_owned));
        Level {
            baseline: truth.baseline.clone(),
            hotpatch: truth.hotpatch.clone(),
            file_build: truth.file_build.clone(),
            effective_build: truth.effective_build.clone(),
            action: action.unwrap_or_default(),
            behind: plan.baselines_behind as u64,
            restart: plan.restart,
            cves: truth.findings.iter().map(|f| (f.cve.clone(), f.state.name().to_owned())).collect(),
        }
    }
}

/// A store.
pub struct Store {
    connection: Connection,
}

/// How many machines are in a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// The state, without its CVEs.
    pub level: Level,
    /// Machines.
    pub machines: u64,
}

/// Days since 1970.
pub fn day_of(time: Time) -> i64 {
    i64::try_from(time.seconds() / DAY).unwrap_or(i64::MAX)
}

/// The day's midnight.
pub fn time_of(day: i64) -> Time {
    Time(hotgraft_signer::UnixTime(u64::try_from(day).unwrap_or(0).saturating_mul(DAY)))
}

impl Store {
    /// Opens a store, or makes one.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Malformed`] for a database of something else.
    pub fn open(path: &Path) -> Result<Store> {
        Store::of(Connection::open(path)?, &path.display().to_string())
    }

    /// A store in memory.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn in_memory() -> Result<Store> {
        Store::of(Connection::open_in_memory()?, "memory")
    }

    fn of(connection: Connection, about: &str) -> Result<Store> {
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
        let format: Option<String> = if tables == 0 {
            None
        } else {
            let known = connection.query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| row.get(0));
            known.optional().map_err(|_| Error::malformed(about, format!("a store ({FORMAT})")))?
        };
        if tables != 0 && format.as_deref() != Some(FORMAT) {
            return Err(Error::malformed(about, format!("a store ({FORMAT})")));
        }
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
        connection.execute_batch(SCHEMA)?;
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?1)", [FORMAT])?;
        Ok(Store { connection })
    }

    /// States whose product this is.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the store is about another product.
    pub fn set_product(&mut self, product: &str) -> Result<()> {
        self.connection.execute("INSERT OR IGNORE INTO meta VALUES ('product', ?1)", [product])?;
        let known = self.product()?;
        if known != product {
            return Err(Error::malformed("the store", format!("states of {known}, not of {product}")));
        }
        Ok(())
    }

    /// The product that the store is about; empty if none was set.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn product(&self) -> Result<String> {
        let value = self.connection.query_row("SELECT value FROM meta WHERE name = 'product'", [], |row| row.get(0));
        Ok(value.optional()?.unwrap_or_default())
    }

    /// Puts the states of one day into the store: all of them, or none if one is not right. The same state of a machine
    /// twice is once; another state on the same day takes the place of the one before.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Malformed`] for a day before the last one of a machine.
    pub fn record<'a>(&mut self, day: i64, states: impl IntoIterator<Item = (&'a str, &'a Level)>) -> Result<u64> {
        let transaction = self.connection.transaction()?;
        let mut count = 0;
        {
            let mut known =
                transaction.prepare("SELECT id, first_day, last_day, level FROM machine WHERE name = ?1")?;
            let mut add_machine = transaction
                .prepare("INSERT INTO machine (name, first_day, last_day, level) VALUES (?1, ?2, ?2, ?3)")?;
            let mut set_machine =
                transaction.prepare("UPDATE machine SET first_day = ?2, last_day = ?3, level = ?4 WHERE id = ?1")?;
            let mut extend = transaction.prepare("UPDATE machine SET last_day = ?2 WHERE id = ?1")?;
            let mut close = transaction.prepare("INSERT OR REPLACE INTO span VALUES (?1, ?2, ?3, ?4)")?;
            let mut change: BTreeMap<i64, i64> = BTreeMap::new();
            let mut levels: BTreeMap<&Level, i64> = BTreeMap::new();
            for (name, level) in states {
                count += 1;
                let level = match levels.get(level) {
                    Some(id) => *id,
                    None => {
                        let id = level_id(&transaction, level)?;
                        levels.insert(level, id);
                        id
                    }
                };
                let row = known
                    .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                    .optional()?;
                let Some((id, first, last, before)) = row else {
                    add_machine.execute(params![name, day, level])?;
                    *change.entry(level).or_default() += 1;
                    continue;
                };
                let (id, first, last, before): (i64, i64, i64, i64) = (id, first, last, before);
                if day < last {
                    let text = format!("a day from {} on for {name}, not {}", time_of(last).day(), time_of(day).day());
                    return Err(Error::malformed("the states", text));
                }
                if day == last {
                    if level == before {
                        continue;
                    }
                    *change.entry(before).or_default() -= 1;
                    if first < day {
                        close.execute(params![id, first, day - 1, before])?;
                    }
                    set_machine.execute(params![id, day, day, level])?;
                } else if level == before && day == last + 1 {
                    extend.execute(params![id, day])?;
                } else {
                    close.execute(params![id, first, last, before])?;
                    set_machine.execute(params![id, day, day, level])?;
                }
                *change.entry(level).or_default() += 1;
            }
            let mut add = transaction.prepare(
                "INSERT INTO day_count VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET machines = machines + excluded.machines",
            )?;
            for (level, by) in change.into_iter().filter(|(_, by)| *by != 0) {
                add.execute(params![day, level, by])?;
            }
            transaction.execute("DELETE FROM day_count WHERE machines = 0", [])?;
        }
        transaction.commit()?;
        Ok(count)
    }

    /// First and last day that there are states of.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn days(&self) -> Result<Option<(i64, i64)>> {
        let range = "SELECT min(day), max(day) FROM day_count";
        let days: (Option<i64>, Option<i64>) =
            self.connection.query_row(range, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(days.0.zip(days.1))
    }

    /// How many machines are in which state on a day, most first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn levels(&self, day: i64) -> Result<Vec<Counted>> {
        let mut query = self.connection.prepare(
            "SELECT baseline, hotpatch, file_build, effective_build, action, behind, restart, sum(machines) AS all_machines
             FROM day_count JOIN level ON level.id = level WHERE day = ?1
             GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY all_machines DESC, 1, 2, 5",
        )?;
        let rows = query.query_map([day], |row| {
            let level = Level {
                baseline: row.get(0)?,
                hotpatch: row.get(1)?,
                file_build: row.get(2)?,
                effective_build: row.get(3)?,
                action: row.get(4)?,
                behind: row.get::<_, i64>(5)?.cast_unsigned(),
                restart: row.get(6)?,
                cves: BTreeMap::new(),
            };
            Ok(Counted { level, machines: row.get::<_, i64>(7)?.cast_unsigned() })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// For each day of a range: machines by (baseline, hotpatch, baselines behind).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn over_time(&self, first: i64, last: i64) -> Result<Vec<(i64, String, u64, u64)>> {
        let mut query = self.connection.prepare(
            "SELECT day, coalesce(baseline, '?') || coalesce(' + ' || hotpatch, ''), behind, sum(machines)
             FROM day_count JOIN level ON level.id = level WHERE day BETWEEN ?1 AND ?2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        )?;
        let rows = query.query_map([first, last], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned(), row.get::<_, i64>(3)?.cast_unsigned()))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// For each day of a range and each CVE: machines by state.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn cves(&self, first: i64, last: i64) -> Result<Vec<(i64, String, String, u64)>> {
        let mut query = self.connection.prepare(
            "SELECT day, cve, state, sum(machines) FROM day_count JOIN level_cve USING (level)
             WHERE day BETWEEN ?1 AND ?2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        )?;
        let rows = query.query_map([first, last], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned()))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Machines that are behind by at least one baseline on a day: how many, and the first by name with baseline, baselines
    /// behind and what to do.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn fallen(&self, day: i64, most: u32) -> Result<(u64, Vec<(String, String, u64, String)>)> {
        let count = "SELECT coalesce(sum(machines), 0) FROM day_count JOIN level ON level.id = level WHERE day = ?1 AND behind > 0";
        let count: i64 = self.connection.query_row(count, [day], |row| row.get(0))?;
        let mut query = self.connection.prepare(&format!(
            "WITH wanted AS (SELECT id, baseline, behind, action FROM level WHERE behind > 0)
             SELECT name, coalesce(baseline, '?'), behind, action FROM ({}) ORDER BY behind DESC, name LIMIT ?2",
            AT_DAY
        ))?;
        let rows = query.query_map(params![day, most], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned(), row.get(3)?))
        })?;
        Ok((count.cast_unsigned(), rows.collect::<Result<_, _>>()?))
    }

    /// Machines on which a CVE is open on a day, the first by name, with its state and what to do.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open_on(&self, cve: &str, day: i64, most: u32) -> Result<Vec<(String, String, String)>> {
        let open: Vec<String> = State::ALL.iter().filter(|s| s.is_open()).map(|s| format!("'{}'", s.name())).collect();
        let mut query = self.connection.prepare(&format!(
            "WITH wanted AS (SELECT id, state AS baseline, behind, action FROM level JOIN level_cve ON level = id
                WHERE cve = ?3 AND state IN ({}))
             SELECT name, baseline, action FROM ({}) ORDER BY name LIMIT ?2",
            open.join(", "),
            AT_DAY
        ))?;
        let rows = query.query_map(params![day, most, cve], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Spans of a machine: first and last day, baseline, hotpatch, what to do.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn history(&self, machine: &str) -> Result<Vec<(i64, i64, Option<String>, Option<String>, String)>> {
        let mut query = self.connection.prepare(
            "SELECT first_day, last_day, baseline, hotpatch, action FROM (
                SELECT span.first_day, span.last_day, span.level FROM span JOIN machine ON machine.id = machine WHERE name = ?1
                UNION ALL SELECT first_day, last_day, level FROM machine WHERE name = ?1)
             JOIN level ON level.id = level ORDER BY 1",
        )?;
        let rows =
            query.query_map([machine], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Machines that were in one of the states `wanted` on day ?1.
const AT_DAY: &str = "
    SELECT machine.name, baseline, behind, action FROM wanted
        JOIN machine ON machine.level = wanted.id AND machine.last_day >= ?1 AND machine.first_day <= ?1
    UNION ALL
    SELECT machine.name, baseline, behind, action FROM wanted
        JOIN span ON span.level = wanted.id AND span.last_day >= ?1 AND span.first_day <= ?1
        JOIN machine ON machine.id = span.machine";

fn level_id(transaction: &rusqlite::Transaction<'_>, level: &Level) -> Result<i64> {
    let hash = canonical::sha256(&canonical::bytes(level)?);
    let known: Option<i64> =
        transaction.query_row("SELECT id FROM level WHERE hash = ?1", [&hash], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    transaction.execute(
        "INSERT INTO level (hash, baseline, hotpatch, file_build, effective_build, action, behind, restart)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            hash,
            level.baseline,
            level.hotpatch,
            level.file_build,
            level.effective_build,
            level.action,
            level.behind.cast_signed(),
            level.restart
        ],
    )?;
    let id = transaction.last_insert_rowid();
    let mut add = transaction.prepare("INSERT INTO level_cve VALUES (?1, ?2, ?3)")?;
    for (cve, state) in &level.cves {
        add.execute(params![id, cve, state])?;
    }
    Ok(id)
}
