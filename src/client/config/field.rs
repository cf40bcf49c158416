//! How a setting is read from a file, laid over another, and compared.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::node::Node;
use crate::error::ConfigError;

/// A setting or a section of settings. What a file does not set stays unset.
pub(super) trait Field: Default {
    /// # Errors
    /// When the value has the wrong type. `path` is that of the setting.
    fn read(node: Node, path: &str) -> Result<Self, ConfigError>;

    /// What is unset here is taken from `base`.
    fn over(self, base: &Self) -> Self;

    /// Adds the paths of settings that differ.
    fn differences(&self, other: &Self, path: &str, paths: &mut Vec<String>);
}

/// A single value.
pub(super) trait Scalar: Clone + PartialEq {
    /// What is expected.
    const EXPECTED: &'static str;

    fn of(node: &Node) -> Option<Self>;
}

impl<T: Scalar> Field for Option<T> {
    fn read(node: Node, path: &str) -> Result<Self, ConfigError> {
        if node == Node::Null {
            return Ok(None);
        }
        match T::of(&node) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong::<T>(&node, path)),
        }
    }

    fn over(self, base: &Self) -> Self {
        self.or_else(|| base.clone())
    }

    fn differences(&self, other: &Self, path: &str, paths: &mut Vec<String>) {
        if self != other {
            paths.push(path.to_owned());
        }
    }
}

impl<T: Scalar> Field for BTreeMap<String, T> {
    fn read(node: Node, path: &str) -> Result<Self, ConfigError> {
        let read = |(key, node): (String, Node)| match T::of(&node) {
            Some(value) => Ok((key, value)),
            None => Err(wrong::<T>(&node, &format!("{path}.{key}"))),
        };
        table(node, path)?.into_iter().map(read).collect()
    }

    fn over(mut self, base: &Self) -> Self {
        for (key, value) in base {
            self.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    fn differences(&self, other: &Self, path: &str, paths: &mut Vec<String>) {
        if self != other {
            paths.push(path.to_owned());
        }
    }
}

/// # Errors
/// When it is no table.
pub(super) fn table(node: Node, path: &str) -> Result<Vec<(String, Node)>, ConfigError> {
    match node {
        Node::Table(table) => Ok(table),
        Node::Null => Ok(Vec::new()),
        other => {
            let why = format!("is {}, and a table is expected", other.kind());
            Err(ConfigError::new(path, why))
        }
    }
}

fn wrong<T: Scalar>(node: &Node, path: &str) -> ConfigError {
    let given = match node {
        Node::Text(text) => format!("{text:?}"),
        Node::Integer(number) => number.to_string(),
        Node::Float(number) => number.to_string(),
        Node::Bool(value) => value.to_string(),
        other => other.kind().to_owned(),
    };
    ConfigError::new(path, format!("is {given}, and {} is expected", T::EXPECTED))
}

/// The path of a key in a section; that of the root is empty.
pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// The error for a key that no section has.
pub(super) fn unknown(path: &str, key: &str, known: &[&str]) -> ConfigError {
    let nearest = known.iter().min_by_key(|known| distance(key, known));
    let why = match nearest {
        Some(nearest) if distance(key, nearest) <= key.len().max(3) / 2 => {
            format!("is no setting; did you mean {nearest:?}?")
        }
        _ => format!("is no setting; there are {}", known.join(", ")),
    };
    ConfigError::new(join(path, key), why)
}

/// How many characters must be changed, added or removed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = corner + usize::from(a != *b);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[other.len()]
}

/// A time, or `"none"` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone(pub Option<Duration>);

fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

impl Scalar for Duration {
    const EXPECTED: &'static str = "a time such as \"10s\" or \"1m 30s\"";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Text(text) => time(text),
            _ => None,
        }
    }
}

impl Scalar for OrNone {
    const EXPECTED: &'static str = "a time such as \"10s\", or \"none\",";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Text(text) if text == "none" => Some(Self(None)),
            Node::Text(text) => time(text).map(|time| Self(Some(time))),
            _ => None,
        }
    }
}

impl Scalar for String {
    const EXPECTED: &'static str = "a text";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

// A loader of environment variables has texts only.
impl Scalar for bool {
    const EXPECTED: &'static str = "true or false";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Bool(value) => Some(*value),
            Node::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Scalar for f64 {
    const EXPECTED: &'static str = "a number";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Integer(number) => Some(*number as f64),
            Node::Float(number) => Some(*number),
            Node::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Reads whole numbers.
macro_rules! impl_scalar {
    ($($number:ty: $expected:literal),+ $(,)?) => {$(
        impl Scalar for $number {
            const EXPECTED: &'static str = $expected;

            fn of(node: &Node) -> Option<Self> {
                match node {
                    Node::Integer(number) => <$number>::try_from(*number).ok(),
                    Node::Text(text) => text.parse().ok(),
                    _ => None,
                }
            }
        }
    )+};
}

impl_scalar! {
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0",
    usize: "a whole number from 0",
}

impl Scalar for NonZeroU32 {
    const EXPECTED: &'static str = "a whole number from 1";

    fn of(node: &Node) -> Option<Self> {
        u32::of(node).and_then(Self::new)
    }
}

/// Defines a section: a struct whose fields are settings, or sections.
macro_rules! section {
    (
        $(#[$about:meta])*
        pub struct $section:ident {
            $($(#[$doc:meta])* pub $field:ident: $kind:ty,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[non_exhaustive]
        pub struct $section {
            $($(#[$doc])* pub $field: $kind,)+
        }

        impl $section {
            /// The names of its settings.
            pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($field)),+];
        }

        impl $crate::client::config::field::Field for $section {
            fn read(
                node: $crate::client::config::node::Node,
                path: &str,
            ) -> Result<Self, $crate::error::ConfigError> {
                use $crate::client::config::field::{Field, join, table, unknown};
                let mut read = Self::default();
                for (key, node) in table(node, path)? {
                    match &*key {
                        $(stringify!($field) => {
                            read.$field = Field::read(node, &join(path, &key))?;
                        })+
                        _ => return Err(unknown(path, &key, Self::KEYS)),
                    }
                }
                Ok(read)
            }

            fn over(self, base: &Self) -> Self {
                use $crate::client::config::field::Field;
                Self { $($field: Field::over(self.$field, &base.$field),)+ }
            }

            fn differences(&self, other: &Self, path: &str, paths: &mut Vec<String>) {
                use $crate::client::config::field::{Field, join};
                $(Field::differences(
                    &self.$field,
                    &other.$field,
                    &join(path, stringify!($field)),
                    paths,
                );)+
            }
        }
    };
}

pub(super) use section;
