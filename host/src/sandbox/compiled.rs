//! Compiled code of components.

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use super::failure::Error;
use crate::domain::Digest;

/// Where compiled code comes from.
pub(super) struct Compiled;

impl Compiled {
    pub(super) fn open(_folder: Option<&Path>, _engine: &Engine) -> Result<Compiled, Error> {
        Ok(Compiled)
    }

    pub(super) fn get_or_compile(
        &self,
        engine: &Engine,
        _digest: Digest,
        component: &[u8],
    ) -> Result<Component, Error> {
        Component::new(engine, component).map_err(|error| Error::NotAComponent { message: format!("{error:#}") })
    }
}
