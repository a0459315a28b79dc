//! Conversions of single JSON values; each error says what to write instead.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::durations;
use crate::sizes::Size;

/// `true` or `false`.
pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".to_owned())
}

/// Any text.
pub(crate) fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "must be a string".to_owned())
}

/// Text that is not empty.
pub(crate) fn word(value: &Value) -> Result<String, String> {
    text(value).ok().filter(|t| !t.is_empty()).ok_or_else(|| "must be a string that is not empty".to_owned())
}

/// A list of texts.
pub(crate) fn words(value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().and_then(|list| list.iter().map(|v| word(v).ok()).collect());
    list.ok_or_else(|| "must be a list of strings, such as [\"numpy\"]".to_owned())
}

/// A whole number in a range.
pub(crate) fn whole(range: RangeInclusive<u32>) -> impl FnOnce(&Value) -> Result<u32, String> {
    move |value| {
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A TCP port, as a number or as the original's string.
pub(crate) fn port(value: &Value) -> Result<u16, String> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|n| u16::try_from(n).ok()),
    };
    number.filter(|port| *port != 0).ok_or_else(|| "must be a port from 1 to 65535".to_owned())
}

/// A duration above zero.
pub(crate) fn duration(value: &Value) -> Result<Duration, String> {
    let duration = duration_or_zero(value)?;
    if duration.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(duration) }
}

/// A duration that may be zero.
pub(crate) fn duration_or_zero(value: &Value) -> Result<Duration, String> {
    match value {
        Value::String(text) => durations::parse(text).map_err(|error| error.to_string()),
        Value::Number(n) => Err(format!("has no unit: write for example \"{n}s\" or \"{n}ms\"")),
        _ => Err("must be a duration such as \"30s\" or \"1500ms\"".to_owned()),
    }
}

/// A number of seconds, as the original has it, or a duration.
pub(crate) fn seconds(value: &Value) -> Result<Duration, String> {
    match value.as_u64() {
        Some(0) => Err("must be more than 0 seconds".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None if value.is_number() => Err("must be a whole number of seconds".to_owned()),
        None => duration(value),
    }
}

/// A size of any amount.
pub(crate) fn size(value: &Value) -> Result<Size, String> {
    Size::from_json(value).map_err(|error| error.to_string())
}

/// A size of at least `min`.
pub(crate) fn size_from(min: Size) -> impl FnOnce(&Value) -> Result<Size, String> {
    move |value| {
        let size = size(value)?;
        let hint = if value.is_number() { " (a number is KB)" } else { "" };
        if size < min { Err(format!("must be at least {min}{hint}")) } else { Ok(size) }
    }
}

/// Cores: a number or a quantity such as `"1"`, `"0.5"`, `"500m"`, in thousandths.
pub(crate) fn cpu_millis(value: &Value) -> Result<u32, String> {
    let error = || "must be a number of cores above 0, such as \"1\", 0.5 or \"500m\"".to_owned();
    let millis = match value {
        Value::String(text) => match text.strip_suffix('m') {
            Some(millis) => millis.parse::<u32>().map(f64::from).map_err(|_| error())?,
            None => text.parse::<f64>().map_err(|_| error())? * 1000.0,
        },
        other => other.as_f64().ok_or_else(error)? * 1000.0,
    };
    // The kernel's smallest quota is 1 ms per period of 100 ms.
    if millis.is_finite() && (10.0..=1_000_000.0).contains(&millis) {
        Ok(millis.round() as u32)
    } else {
        Err(error() + " (at least \"10m\")")
    }
}

/// A fraction above 0, up to 1.
pub(crate) fn fraction(value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|n| *n > 0.0 && *n <= 1.0)
        .ok_or_else(|| "must be a number above 0, at most 1".to_owned())
}

/// A number of connections: 1 or more, or the original's -1 for no limit.
pub(crate) fn connections(value: &Value) -> Result<Option<u32>, String> {
    match value.as_i64() {
        Some(-1) => Ok(None),
        Some(n) if n >= 1 && u32::try_from(n).is_ok() => Ok(u32::try_from(n).ok()),
        _ => Err("must be a whole number, 1 or more, or -1 for no limit".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_numbers_or_strings() {
        assert_eq!(port(&json!(8080)), Ok(8080));
        assert_eq!(port(&json!("8080")), Ok(8080));
        for bad in [json!(0), json!("?"), json!(65_536), json!(-1), json!(true), json!("")] {
            assert!(port(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_thousandths() {
        assert_eq!(cpu_millis(&json!("500m")), Ok(500));
        assert_eq!(cpu_millis(&json!("1")), Ok(1000));
        assert_eq!(cpu_millis(&json!(0.25)), Ok(250));
        for bad in [json!(0), json!("-1"), json!("x"), json!("1m"), json!("NaN"), json!([])] {
            assert!(cpu_millis(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_and_durations() {
        assert_eq!(seconds(&json!(10)), Ok(Duration::from_secs(10)));
        assert_eq!(seconds(&json!("500ms")), Ok(Duration::from_millis(500)));
        assert!(seconds(&json!(0)).is_err() && seconds(&json!(1.5)).is_err());
        assert_eq!(duration(&json!(30)).unwrap_err(), "has no unit: write for example \"30s\" or \"30ms\"");
        assert!(duration(&json!("0s")).is_err());
        assert_eq!(duration_or_zero(&json!("0s")), Ok(Duration::ZERO));
    }

    #[test]
    fn connection_limits() {
        assert_eq!(connections(&json!(-1)), Ok(None));
        assert_eq!(connections(&json!(7)), Ok(Some(7)));
        assert!(connections(&json!(0)).is_err() && connections(&json!("7")).is_err());
    }
}
