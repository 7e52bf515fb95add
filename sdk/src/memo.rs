//! The last values that were read, kept for the next call: the host hands every round of `needs`, and `decide` or
//! `project` after them, the same texts, and reading them is most of what a call costs. Never changes what a call
//! gives: a value is a function of the text it was read from (I8).

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// At most `MAX` values, each with what it was read from; the oldest goes first.
pub(crate) struct Memo<K, const MAX: usize = 1>(RefCell<Vec<(K, Rc<dyn Any>)>>);

impl<K: PartialEq, const MAX: usize> Memo<K, MAX> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// What `read` makes of the key; only a success is kept.
    pub(crate) fn get<T: 'static, E>(&self, key: K, read: impl FnOnce(&K) -> Result<T, E>) -> Result<Rc<T>, E> {
        let known = self.0.borrow().iter().find(|(known, _)| *known == key).map(|(_, value)| Rc::clone(value));
        if let Some(value) = known.and_then(|value| value.downcast().ok()) {
            return Ok(value);
        }
        let value = Rc::new(read(&key)?);
        let mut kept = self.0.borrow_mut();
        if kept.len() == MAX {
            kept.remove(0);
        }
        kept.push((key, Rc::clone(&value) as Rc<dyn Any>));
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
