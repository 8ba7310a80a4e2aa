//! Points in time in documents: RFC 3339 in UTC, whole seconds. Never read from a clock here.

use hotgraft_signer::UnixTime;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds in a day.
pub const DAY: u64 = 86_400;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub UnixTime);

impl Time {
    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0.0
    }

    /// That many days later.
    pub fn plus_days(self, days: u64) -> Time {
        self.plus_seconds(days.saturating_mul(DAY))
    }

    /// That many seconds later.
    pub fn plus_seconds(self, seconds: u64) -> Time {
        // The year 9999 is the last that RFC 3339 can say.
        Time(UnixTime(self.0.0.saturating_add(seconds).min(253_402_300_799)))
    }

    /// The day alone: `2026-01-31`.
    pub fn day(self) -> String {
        self.to_string().chars().take(10).collect()
    }

    /// The month, 1 to 12.
    pub fn month(self) -> u8 {
        self.to_string().get(5..7).and_then(|m| m.parse().ok()).unwrap_or(1)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let time = text.parse().map(Time)?;
        if time.seconds() > 253_402_300_799 { Err(format!("{text}: out of range")) } else { Ok(time) }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
