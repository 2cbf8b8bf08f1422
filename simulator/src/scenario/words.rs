//! What a TOML file lacks or has wrong, in the words of scenario files instead of Rust's.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserializer, de};

/// Keys that must be there, and how they may look.
const EXAMPLES: [(&str, &str); 16] = [
    ("name", "name = \"evening\""),
    ("question", "question = \"How long does it take?\""),
    ("mode", "mode = \"virtual\""),
    ("operation", "operation = \"save-then-restore\""),
    ("methods", "methods = [\"raw\", \"comio\"]"),
    ("guests", "guests = { count = 4, memory = \"512 MiB\", traces = [\"desktop-0\"] }"),
    ("count", "count = 4"),
    ("memory", "memory = \"512 MiB\""),
    ("traces", "traces = [\"desktop-0\"]"),
    ("pattern", "pattern = \"staggered\""),
    ("rate", "rate = \"200 Mbit/s\""),
    ("kind", "kind = \"server-restart\""),
    ("at", "at = \"10 s\""),
    ("lasts", "lasts = \"5 s\""),
    ("parameter", "parameter = \"guests.count\""),
    ("values", "values = [1, 2, 4]"),
];

/// What is expected, as Rust names it (or how that begins), and as people do.
const EXPECTED: [(&str, &str); 6] = [
    ("struct ", "a table of keys, for example { count = 4 }"),
    ("a map", "a table of keys, for example { count = 4 }"),
    ("a sequence", "a list in brackets, for example [1, 2, 4]"),
    ("f64", "a number without quotes, for example 2.5"),
    ("a boolean", "true or false, without quotes"),
    ("a string", "a text in quotes"),
];

/// The message of an error while reading TOML, for people.
pub(super) fn plain(message: &str) -> String {
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let example = EXAMPLES.iter().find(|(known, _)| *known == key);
        let example = example.map(|(_, line)| format!(": add a line such as {line}"));
        return format!("{key} is missing{}", example.unwrap_or_default());
    }
    if message.ends_with("expected literal string") {
        return "there is no value that TOML knows: write a number, true or false, or a text in quotes"
            .to_owned();
    }
    if let Some((given, expected)) = message.split_once(", expected ")
        && given.starts_with("invalid type")
        && let Some((_, words)) = EXPECTED.iter().find(|(rust, _)| expected.starts_with(rust))
    {
        return format!("{given}, expected {words}");
    }
    message.to_owned()
}

/// A whole number that is not negative; anything else is refused with an example.
pub(super) fn count<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    struct Whole<T>(PhantomData<T>);

    impl<T: TryFrom<u64>> de::Visitor<'_> for Whole<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number without quotes, for example 8")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            let whole = u64::try_from(number).ok().and_then(|number| T::try_from(number).ok());
            whole.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }
    }

    deserializer.deserialize_u64(Whole(PhantomData))
}

/// As [`count`], for a key that may be left out.
pub(super) fn some_count<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    count(deserializer).map(Some)
}
