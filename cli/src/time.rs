//! Times and durations as users write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// RFC 3339, or unix seconds.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| "expected unix seconds below 2^64".to_owned());
    }
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "expected RFC 3339 such as 2026-11-15T00:00:00Z, or unix seconds".to_owned())?;
    u64::try_from(time.timestamp()).map_err(|_| "expected a time after 1970".to_owned())
}

/// Unix milliseconds as RFC 3339 in UTC; empty for 0, which stands for no time.
pub(crate) fn shown_ms(milliseconds: i64) -> String {
    match milliseconds {
        0 => String::new(),
        _ => DateTime::from_timestamp_millis(milliseconds)
            .map_or_else(|| milliseconds.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true)),
    }
}

/// Unix seconds as RFC 3339 in UTC, or the number where that has no form.
pub(crate) fn shown_s(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| seconds.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// `500ms`, `90`, `90s`, `10m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 500ms, 90s, 10m or 1h, at most 24h".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let duration = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(expected)?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(24 * 3_600);
    if allowed.contains(&duration) { Ok(duration) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms_and_shown_in_one() {
        assert_eq!(parse_time("1793491200"), Ok(1_793_491_200));
        assert_eq!(parse_time("2026-11-01T00:00:00Z"), Ok(1_793_491_200));
        assert_eq!(parse_time("2026-11-01T01:30:00+01:30"), Ok(1_793_491_200));
        for wrong in ["", "-1", "2026-11-01", "1969-12-31T23:59:59Z", "99999999999999999999"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown_ms(1_793_491_200_999), "2026-11-01T00:00:00Z");
        assert_eq!(shown_ms(0), "");
        assert_eq!(shown_ms(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn durations_have_units_and_an_end() {
        for (text, milliseconds) in
            [("500ms", 500), ("2", 2_000), ("90s", 90_000), ("10m", 600_000), ("24h", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "0", "0s", "s", "1d", "-1s", "1.5s", "25h", "18446744073709551615h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
