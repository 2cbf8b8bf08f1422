//! Quantities as people write them in scenario files: a number and a unit.
//!
//! A bare number is refused: `memory = 512` says nothing about what 512 is.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not a quantity of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}: write a number and a unit, for example {example:?}")]
pub struct BadQuantity {
    text: String,
    kind: &'static str,
    example: &'static str,
}

/// One kind of quantity: its units with their factors, and how to speak of it.
struct Kind {
    name: &'static str,
    example: &'static str,
    units: &'static [(&'static str, f64)],
}

const SIZE: Kind = Kind {
    name: "a size",
    example: "512 MiB",
    units: &[
        ("B", 1.0),
        ("KiB", 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("TiB", 1024.0 * 1024.0 * 1024.0 * 1024.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ],
};

const RATE: Kind = Kind {
    name: "a data rate",
    example: "1 Gbit/s",
    units: &[
        ("bit/s", 1.0),
        ("kbit/s", 1e3),
        ("Mbit/s", 1e6),
        ("Gbit/s", 1e9),
        ("kB/s", 8e3),
        ("MB/s", 8e6),
        ("GB/s", 8e9),
        ("KiB/s", 8.0 * 1024.0),
        ("MiB/s", 8.0 * 1024.0 * 1024.0),
        ("GiB/s", 8.0 * 1024.0 * 1024.0 * 1024.0),
    ],
};

const SPAN: Kind = Kind {
    name: "a duration",
    example: "30 s",
    units: &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("min", 60e9), ("h", 3600e9)],
};

const SHARE: Kind = Kind { name: "a share", example: "60 %", units: &[("%", 0.01)] };

impl Kind {
    /// The value in the kind's base unit, a finite number of zero or more.
    fn parse(&self, text: &str) -> Result<f64, BadQuantity> {
        let bad = || BadQuantity { text: text.to_owned(), kind: self.name, example: self.example };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(bad)?;
        let (number, unit) = trimmed.split_at(split);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let unit = unit.trim_start();
        let (_, factor) = self.units.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let value = number * factor;
        if value.is_finite() { Ok(value) } else { Err(bad()) }
    }

    /// The same as a whole number of base units, rounded.
    fn parse_whole(&self, text: &str) -> Result<u64, BadQuantity> {
        let value = self.parse(text)?.round();
        // Beyond 2^53 a float has no units digit any more, and nothing here is that large.
        if value > 9e15 {
            return Err(BadQuantity { text: text.to_owned(), kind: self.name, example: self.example });
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, not negative and below 2^53, as checked above"
        )]
        Ok(value as u64)
    }

    /// What texts of this kind look like.
    fn schema(&self) -> Schema {
        let units: Vec<&str> = self.units.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "type": "string",
            "description": format!("{} with its unit", self.name),
            "pattern": format!("^[0-9.]+ *({})$", units.join("|")),
            "examples": [self.example],
        })
    }

    /// The shortest exact text: the largest unit that divides the value.
    fn show(&self, value: u64) -> String {
        let whole = |factor: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the units' factors are whole numbers"
            )]
            let factor = factor as u64;
            (factor > 0 && value.is_multiple_of(factor)).then_some(value / factor)
        };
        self.units
            .iter()
            .filter_map(|(name, factor)| whole(*factor).map(|count| (count, name)))
            .min_by_key(|(count, _)| *count)
            .map_or_else(|| value.to_string(), |(count, name)| format!("{count} {name}"))
    }
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl std::str::FromStr for $name {
            type Err = BadQuantity;

            fn from_str(text: &str) -> Result<Self, BadQuantity> {
                $kind.parse_whole(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&$kind.show(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                quantity_text(deserializer, &$kind)?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $kind.schema()
            }
        }
    };
}

quantity!(
    /// A number of bytes ("512 MiB", "64 GB").
    Size,
    SIZE
);
quantity!(
    /// A data rate in bits per second ("1 Gbit/s", "114 MiB/s").
    Rate,
    RATE
);
quantity!(
    /// A duration in nanoseconds ("250 ms", "5 min").
    Span,
    SPAN
);

impl Rate {
    /// In bytes per second.
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53 bit/s")]
    pub fn bytes_per_s(self) -> f64 {
        self.0 as f64 / 8.0
    }
}

impl Span {
    /// As a [`Duration`].
    pub fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// A share of a whole, 0 to 1 ("60 %").
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl std::str::FromStr for Share {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let share = SHARE.parse(text)?;
        if share <= 1.0 {
            Ok(Self(share))
        } else {
            Err(BadQuantity {
                text: text.to_owned(),
                kind: "a share of at most 100 %",
                example: SHARE.example,
            })
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0 * 100.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity_text(deserializer, &SHARE)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        SHARE.schema()
    }
}

/// The text of a quantity; other types are refused with a word about the unit.
fn quantity_text<'de, D: Deserializer<'de>>(
    deserializer: D,
    kind: &'static Kind,
) -> Result<String, D::Error> {
    struct Text(&'static Kind);

    impl de::Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} with its unit, in quotes, for example {:?}", self.0.name, self.0.example)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    deserializer.deserialize_str(Text(kind))
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_scale() {
        assert_eq!("512 MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!("1.5 KiB".parse(), Ok(Size(1536)));
        assert_eq!("1 Gbit/s".parse(), Ok(Rate(1_000_000_000)));
        assert_eq!("1MiB/s".parse(), Ok(Rate(8 << 20)));
        assert_eq!("5 min".parse(), Ok(Span(300_000_000_000)));
        assert_eq!("60 %".parse(), Ok(Share(0.6)));
    }

    #[test]
    fn wrong_texts_say_what_would_be_right() {
        for text in ["512", "512 megs", "MiB", "-1 MiB", "1.2.3 MiB", "1e99 MiB", "99999999 TiB", ""] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("\"512 MiB\""), "{error}");
        }
        assert!("120 %".parse::<Share>().is_err());
    }

    proptest! {
        #[test]
        fn sizes_show_as_they_parse(bytes in 0u64..(1 << 52)) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_parses_or_fails(text in ".{0,20}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Share>();
        }
    }
}
