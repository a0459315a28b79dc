//! Amounts of bytes: a JSON number is KB (1024 bytes), as in the original; a string is a Kubernetes quantity.
//!
//! `524288` and `"512Mi"` are therefore the same amount, and `"1000"` is a thousand bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// An amount of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Why a value is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// Neither a number nor a string.
    #[error("must be a number of KB, or a quantity such as \"512Mi\"")]
    Type,
    /// A negative or fractional number.
    #[error("must be a whole number of KB, 0 or more; other units go into a string such as \"512Mi\"")]
    Number,
    /// A string that is no quantity.
    #[error("is no quantity: write a number with Ki, Mi, Gi, k, M or G behind it, such as \"512Mi\"")]
    Quantity,
    /// The `m` suffix, which is thousandths of a byte.
    #[error("has the suffix m, which means thousandths of a byte: write Mi (or M)")]
    Milli,
    /// More than 2^63 bytes.
    #[error("is too large")]
    TooLarge,
}

const SUFFIXES: &[(&str, u64)] = &[
    ("", 1),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl Size {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many KB of 1024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// So many MB of 1024 KB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads a Kubernetes quantity. Fractions are allowed and rounded up to whole bytes.
    ///
    /// ```
    /// use openlambda_config::Size;
    /// assert_eq!(Size::parse("1.5Ki").unwrap().bytes(), 1536);
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        if suffix == "m" {
            return Err(InvalidSize::Milli);
        }
        let unit = SUFFIXES.iter().find(|(name, _)| *name == suffix).ok_or(InvalidSize::Quantity)?.1;
        scale(number, unit).map(Self)
    }

    /// Reads a value of a configuration file.
    pub fn from_json(value: &Value) -> Result<Self, InvalidSize> {
        match value {
            Value::Number(number) => {
                let kib = number.as_u64().ok_or(InvalidSize::Number)?;
                let bytes = kib.checked_mul(1 << 10).filter(|b| i64::try_from(*b).is_ok());
                bytes.map(Self).ok_or(InvalidSize::TooLarge)
            }
            Value::String(text) => Self::parse(text),
            _ => Err(InvalidSize::Type),
        }
    }
}

/// `number * unit`, exactly, rounded up.
fn scale(number: &str, unit: u64) -> Result<u64, InvalidSize> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 18 digits keep the arithmetic below inside u128, and nobody writes more.
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()) && s.len() <= 18;
    if number.is_empty() || number == "." || !digits(whole) || !digits(fraction) {
        return Err(InvalidSize::Quantity);
    }
    let read = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<u128>() };
    let (whole, part) =
        read(whole).and_then(|w| Ok((w, read(fraction)?))).map_err(|_| InvalidSize::Quantity)?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let bytes = whole * u128::from(unit) + (part * u128::from(unit)).div_ceil(divisor);
    i64::try_from(bytes).map(i64::unsigned_abs).map_err(|_| InvalidSize::TooLarge)
}

impl fmt::Display for Size {
    /// The shortest exact quantity with a power-of-two suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(|error| de::Error::custom(format!("{value} {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kb_numbers_and_quantities_are_the_same_amounts() {
        let read = |v: Value| Size::from_json(&v).map(Size::bytes);
        assert_eq!(read(json!("512Mi")), read(json!(524_288)));
        assert_eq!(read(json!(0)), Ok(0));
        assert_eq!(read(json!("1000")), Ok(1000));
        assert_eq!(read(json!("64M")), Ok(64_000_000));
        assert_eq!(read(json!("1Gi")), Ok(1 << 30));
        assert_eq!(read(json!("1.5Gi")), Ok(3 << 29));
        assert_eq!(read(json!("0.3Ki")), Ok(308));
        assert_eq!(read(json!(".5Mi")), Ok(1 << 19));
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = [
            (json!(true), InvalidSize::Type),
            (json!(-1), InvalidSize::Number),
            (json!(1.5), InvalidSize::Number),
            (json!("512MB"), InvalidSize::Quantity),
            (json!("Mi"), InvalidSize::Quantity),
            (json!(""), InvalidSize::Quantity),
            (json!("."), InvalidSize::Quantity),
            (json!("1.2.3"), InvalidSize::Quantity),
            (json!("-1Mi"), InvalidSize::Quantity),
            (json!("128m"), InvalidSize::Milli),
            (json!("999999999999Ti"), InvalidSize::TooLarge),
            (json!(u64::MAX), InvalidSize::TooLarge),
        ];
        for (value, error) in bad {
            assert_eq!(Size::from_json(&value), Err(error), "{value}");
        }
    }

    #[test]
    fn display_reads_back() {
        for bytes in [0, 1, 1000, 1024, 1536, 512 << 20, 3 << 30] {
            let size = Size::from_bytes(bytes);
            assert_eq!(Size::parse(&size.to_string()), Ok(size));
        }
        assert_eq!(Size::from_mib(512).to_string(), "512Mi");
        assert_eq!(serde_json::from_value::<Size>(json!("6Mi")).unwrap(), Size::from_mib(6));
    }
}
