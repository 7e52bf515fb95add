//! Where compiled code comes from: the cache on disk when there is one, else the compiler.

use std::path::Path;

use carryall_code_cache::CodeCache;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::failure::{Error, short};
use crate::domain::Digest;

pub(super) struct Compiled {
    cache: Option<CodeCache>,
}

impl Compiled {
    pub(super) fn open(folder: Option<&Path>, engine: &Engine) -> Result<Compiled, Error> {
        let cache = folder.map(|folder| CodeCache::open(folder, engine)).transpose();
        Ok(Compiled { cache: cache.map_err(|source| Error::Cache { source })? })
    }

    pub(super) fn get_or_compile(&self, engine: &Engine, digest: Digest, component: &[u8]) -> Result<Component, Error> {
        if let Some(found) = self.cache.as_ref().and_then(|cache| cache.get(engine, &digest.0)) {
            return Ok(found);
        }
        let compiled = Component::from_binary(engine, component)
            .map_err(|error| Error::NotAComponent { message: short(&format!("{error:#}")) })?;
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(&digest.0, &compiled)
        {
            tracing::warn!(%digest, %error, "compiled code could not be kept; the next start compiles it again");
        }
        Ok(compiled)
    }
}
