//! Spans of time as Go writes them: `"1500ms"`, `"2s"`, `"1m30s"`, `"1.5h"`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a sequence of numbers with units.
    #[error(
        "is no duration: write numbers with h, m, s, ms, us or ns behind them, such as \"30s\" or \"1m30s\""
    )]
    Syntax,
    /// A number without a unit.
    #[error("has no unit: write for example \"{0}s\"")]
    NoUnit(String),
    /// More than what fits.
    #[error("is too long")]
    TooLong,
}

/// Nanoseconds of each unit; longer names first, so that `ms` is not read as `m`.
const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration. Zero may stand without a unit, as in Go; negative ones are refused.
///
/// ```
/// use openlambda_config::durations::parse;
/// assert_eq!(parse("1m30s").unwrap().as_secs(), 90);
/// ```
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(InvalidDuration::Syntax);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(split);
        if tail.is_empty() && number.ends_with(|c: char| c.is_ascii_digit()) {
            return Err(InvalidDuration::NoUnit(number.to_owned()));
        }
        let (unit, nanos) =
            UNITS.iter().find(|(name, _)| tail.starts_with(name)).ok_or(InvalidDuration::Syntax)?;
        total += scale(number, *nanos)?;
        rest = &tail[unit.len()..];
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| InvalidDuration::TooLong)
}

/// `number * unit`, cut to whole nanoseconds.
fn scale(number: &str, unit: u64) -> Result<u128, InvalidDuration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 18 digits keep the sum inside u128.
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()) && s.len() <= 18;
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(InvalidDuration::Syntax);
    }
    let read = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<u128>() };
    let (whole, part) =
        read(whole).and_then(|w| Ok((w, read(fraction)?))).map_err(|_| InvalidDuration::Syntax)?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    Ok(whole * u128::from(unit) + part * u128::from(unit) / divisor)
}

/// Writes a duration so that [`parse`] reads it back, with the largest unit that needs no fraction.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in [("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos != 0 && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 { "0s".to_owned() } else { format!("{nanos}ns") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("1500ms", 1500),
            ("2s", 2000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1h0m0.25s", 3_600_250),
            (" 3s ", 3000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
        assert_eq!(parse("7µs"), Ok(Duration::from_micros(7)));
        assert_eq!(parse("7us3ns"), Ok(Duration::from_nanos(7003)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "x", "-1s", "1d", "1.2.3s", "1 s", "."] {
            assert_eq!(parse(text), Err(InvalidDuration::Syntax), "{text:?}");
        }
        assert_eq!(parse("30"), Err(InvalidDuration::NoUnit("30".into())));
        assert_eq!(parse("1m30"), Err(InvalidDuration::NoUnit("30".into())));
        assert_eq!(parse("999999999h"), Err(InvalidDuration::TooLong));
    }

    #[test]
    fn formatting_reads_back() {
        for millis in [0, 1, 100, 1500, 30_000, 600_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
        assert_eq!(format(Duration::from_secs(600)), "10m");
    }
}
