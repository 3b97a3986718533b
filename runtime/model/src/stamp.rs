//! Platform stamps: the name and the age of a platform image in one, as `20260101T000000Z`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::PrimitiveDateTime;
use time::macros::format_description;

/// The time a platform image was made, in UTC, to the second.
///
/// Its text form is upper-case; on the key, whose names are lower-case, it is seen as
/// `20260101t000000z` (C§1.4). Both forms parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stamp(PrimitiveDateTime);

/// A text that is no platform stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform stamp: expected a form like 20260101T000000Z")]
pub struct StampError(String);

impl Stamp {
    /// The stamp of a Unix time in seconds; `None` outside the years 1970 to 9999.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        let at = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        (seconds >= 0).then(|| Self(PrimitiveDateTime::new(at.date(), at.time())))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> i64 {
        self.0.assume_utc().unix_timestamp()
    }

    /// The form that the key's file system holds.
    pub fn key_name(self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let error = || StampError(text.to_owned());
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        if text.len() != 16 {
            return Err(error());
        }
        PrimitiveDateTime::parse(&text.to_ascii_uppercase(), format)
            .map_err(|_| error())
            .and_then(|at| Self::from_unix(at.assume_utc().unix_timestamp()).ok_or_else(error))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (h, m, s) = self.0.as_hms();
        let (year, month, day) = self.0.to_calendar_date();
        write!(f, "{year:04}{:02}{day:02}T{h:02}{m:02}{s:02}Z", u8::from(month))
    }
}

impl TryFrom<String> for Stamp {
    type Error = StampError;

    fn try_from(text: String) -> Result<Self, StampError> {
        text.parse()
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> Self {
        stamp.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cases_parse_to_the_same_stamp() {
        let stamp: Stamp = "20260101T000000Z".parse().unwrap();
        assert_eq!(stamp, "20260101t000000z".parse().unwrap());
        assert_eq!(stamp.to_string(), "20260101T000000Z");
        assert_eq!(stamp.key_name(), "20260101t000000z");
        assert_eq!(stamp.unix(), 1_767_225_600);
        assert_eq!(Stamp::from_unix(1_767_225_600), Some(stamp));
    }

    #[test]
    fn what_is_no_stamp_is_refused() {
        for text in ["", "20260101", "20261301T000000Z", "20260101T000000", "../../etc/passwd1"] {
            assert!(text.parse::<Stamp>().is_err(), "{text}");
        }
    }
}
