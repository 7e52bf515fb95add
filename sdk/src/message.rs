//! Commands and events as enums: a name and a version on the wire, a variant in the code.

use crate::Fault;
use serde_json::Value;

/// An enum whose variants are the commands or events of a handler. Made by [`messages!`](crate::messages).
pub trait Message: Sized {
    /// Every name with its version, in the order of the enum.
    const CONTRACTS: &'static [(&'static str, &'static str)];

    fn name(&self) -> &'static str;

    fn schema_version(&self) -> &'static str;

    /// The data as one line of JSON.
    fn to_json(&self) -> Result<String, Fault>;

    /// `version` is none for commands, which have none. An unknown name gives `None`; data of another shape the
    /// inner error, in words for the sender.
    fn parse(name: &str, version: Option<&str>, json: &str) -> Option<Result<Self, String>>;
}

/// Whether two `MAJOR[.MINOR[.PATCH]]` versions have the same major part; within one, fields are only added.
pub fn same_major(one: &str, other: &str) -> bool {
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    major(one) == major(other)
}

/// Something with a name and JSON data: a [`Message`], or a pair of both for what no enum can say.
pub trait Named {
    fn named(&self) -> Result<(String, Option<String>, String), Fault>;
}

impl<M: Message> Named for M {
    fn named(&self) -> Result<(String, Option<String>, String), Fault> {
        Ok((self.name().into(), Some(self.schema_version().into()), self.to_json()?))
    }
}

impl Named for (&str, Value) {
    fn named(&self) -> Result<(String, Option<String>, String), Fault> {
        Ok((self.0.into(), None, self.1.to_string()))
    }
}

/// Declares an enum of commands or events: `"NAME" "VERSION" => Variant(Data)`, where `Data` is a serde type.
/// A name may occur with several major versions, each its own variant.
#[macro_export]
macro_rules! messages {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $enum:ident {
            $( $name:literal $version:literal => $variant:ident($data:ty) ),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        $visibility enum $enum {
            $( $variant($data), )+
        }

        impl $crate::Message for $enum {
            const CONTRACTS: &'static [(&'static str, &'static str)] = &[$( ($name, $version), )+];

            fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            fn schema_version(&self) -> &'static str {
                match self { $( Self::$variant(_) => $version, )+ }
            }

            fn to_json(&self) -> Result<String, $crate::Fault> {
                match self { $( Self::$variant(data) => $crate::json::write(data), )+ }
            }

            fn parse(name: &str, version: Option<&str>, json: &str) -> Option<Result<Self, String>> {
                $(
                    if name == $name && version.is_none_or(|version| $crate::same_major(version, $version)) {
                        return Some(
                            $crate::serde_json::from_str::<$data>(json)
                                .map(Self::$variant)
                                .map_err(|error| error.to_string()),
                        );
                    }
                )+
                None
            }
        }
    };
}

#[cfg(test)]
mod tests;
