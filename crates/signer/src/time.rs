//! Points in time, as seconds since 1970. Nothing in this crate reads a clock but [`UnixTime::now`], and only callers
//! call that.

use der::DateTime;
use serde::{Serialize, Serializer};
use std::time::{Duration, SystemTime};

/// Seconds since 1970-01-01T00:00:00Z. Serialised and shown as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The machine's clock. Not called by any other function of this crate.
    pub fn now() -> UnixTime {
        UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    pub(crate) fn date_time(self) -> Option<DateTime> {
        DateTime::from_unix_duration(Duration::from_secs(self.0)).ok()
    }

    /// Reads the content octets of a UTCTime (`utc`) or GeneralizedTime; seconds and `Z` are required, fractions are
    /// dropped.
    pub(crate) fn from_asn1(content: &[u8], utc: bool) -> Option<UnixTime> {
        let text = std::str::from_utf8(content).ok()?;
        let digits = text.strip_suffix('Z')?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let number =
            |s: &str| (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u64>().ok())?;
        if utc && fraction != "0" || fraction.len() > 9 {
            return None;
        }
        number(fraction)?;
        let (year, rest) = if utc {
            let short = u16::try_from(number(whole.get(..2)?)?).ok()?;
            // RFC 5280 4.1.2.5.1: two digits from 50 on belong to the twentieth century.
            (if short >= 50 { 1900 + short } else { 2000 + short }, whole.get(2..)?)
        } else {
            (u16::try_from(number(whole.get(..4)?)?).ok()?, whole.get(4..)?)
        };
        if rest.len() != 10 {
            return None;
        }
        let field = |i: usize| u8::try_from(number(rest.get(2 * i..2 * i + 2)?)?).ok();
        if year < 1970 {
            // Roots from before 1970 do not exist; RFC 5280 dates of 1950-1969 count as "always".
            return Some(UnixTime(0));
        }
        let date = DateTime::new(year, field(0)?, field(1)?, field(2)?, field(3)?, field(4)?).ok()?;
        Some(UnixTime(date.unix_duration().as_secs()))
    }
}

impl std::fmt::Display for UnixTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.date_time() {
            Some(date) => write!(f, "{date}"),
            None => write!(f, "@{}", self.0),
        }
    }
}

impl std::str::FromStr for UnixTime {
    type Err = String;

    /// RFC 3339 in UTC (`2030-01-31T12:00:00Z`), or a day alone, which begins at midnight.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
        match full.parse::<DateTime>() {
            Ok(date) => Ok(UnixTime(date.unix_duration().as_secs())),
            Err(_) => Err(format!("{text}: expected a time like 2030-01-31T12:00:00Z, or 2030-01-31")),
        }
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        assert_eq!(UnixTime::from_asn1(b"700101000001Z", true), Some(UnixTime(1)));
        assert_eq!(UnixTime::from_asn1(b"20261124060000Z", false).unwrap().to_string(), "2026-11-24T06:00:00Z");
        assert_eq!(UnixTime::from_asn1(b"20261124060000.123Z", false).unwrap().to_string(), "2026-11-24T06:00:00Z");
        for bad in ["", "Z", "700101000001", "7001010001Z", "701301000001Z", "+00101000001Z", "70010100000\u{e9}Z"] {
            assert_eq!(UnixTime::from_asn1(bad.as_bytes(), true), None, "{bad}");
        }
        assert_eq!(UnixTime::from_asn1(b"20261124060000.Z", false), None);
        assert_eq!("2026-11-24T06:00:00Z".parse(), UnixTime::from_asn1(b"20261124060000Z", false).ok_or(String::new()));
        assert_eq!("1970-01-02".parse(), Ok(UnixTime(86400)));
        for bad in ["", "2026", "2026-13-01", "2026-11-24T06:00:00", "2026-11-24T06:00:00+01:00", "yesterday!"] {
            assert!(bad.parse::<UnixTime>().is_err(), "{bad}");
        }
    }
}
