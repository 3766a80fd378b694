//! The value of `--backend`.

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use std::ffi::OsStr;
use zimage::BackendChoice;

/// Reads the value of `--backend`; help lists the names that leave the device open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backends {
    /// True if `auto` is one of them.
    auto: bool,
}

/// Every backend, and `auto`.
pub(super) const ANY: Backends = Backends { auto: true };
/// Every choice of one backend.
pub(super) const EXPLICIT: Backends = Backends { auto: false };

impl Backends {
    /// The choice that a text names.
    pub(super) fn parse(self, text: &str) -> zimage::Result<BackendChoice> {
        match text.parse()? {
            BackendChoice::Auto if !self.auto => Err(zimage::Error::Request(format!(
                "{text:?} does not say what computes; choose one of {}",
                self.names().collect::<Vec<_>>().join(", ")
            ))),
            choice => Ok(choice),
        }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let named = BackendChoice::NAMES.iter().filter(move |(_, choice)| self.auto || *choice != BackendChoice::Auto);
        named.map(|(name, _)| *name)
    }
}

impl TypedValueParser for Backends {
    type Value = BackendChoice;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<BackendChoice, clap::Error> {
        let backends = *self;
        StringValueParser::new().try_map(move |text: String| backends.parse(&text)).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names().map(PossibleValue::new)))
    }
}
