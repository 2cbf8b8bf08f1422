//! Moments, as people read them.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that has a date of four digits: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970 as date and time in UTC ("2026-11-23T18:40:02Z"); as seconds where that gives no
/// year of four digits, since an image may say anything.
pub fn utc(unix_seconds: u64) -> String {
    if unix_seconds > LAST {
        return format!("{unix_seconds} s after 1970");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_seconds)).to_string()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_number_of_seconds_is_a_moment() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_795_458_000), "2026-11-23T18:20:00Z");
        assert_eq!(utc(LAST), "9999-12-31T23:59:59Z");
        assert_eq!(utc(LAST + 1), "253402300800 s after 1970");
        assert_eq!(utc(u64::MAX), "18446744073709551615 s after 1970");
    }
}
