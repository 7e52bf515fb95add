//! Deployment of handlers: which components exist, which of them decide, and who said so.

pub mod check;
pub mod fold;
pub mod record;

#[cfg(test)]
mod tests;
