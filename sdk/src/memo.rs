//! The last value that was read, kept for the next call: the host hands every round of `needs`, and `decide` or
//! `project` after them, the same texts, and reading them is most of what a call costs. Never changes what a call
//! gives: a value is a function of the text it was read from (I8).

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// One value, with what it was read from.
pub(crate) struct Memo<K>(RefCell<Option<(K, Rc<dyn Any>)>>);

impl<K: PartialEq> Memo<K> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// What `read` makes of the key; only a success is kept.
    pub(crate) fn get<T: 'static, E>(&self, key: K, read: impl FnOnce(&K) -> Result<T, E>) -> Result<Rc<T>, E> {
        let last = self.0.borrow().as_ref().filter(|(last, _)| *last == key).map(|(_, value)| Rc::clone(value));
        if let Some(value) = last.and_then(|value| value.downcast().ok()) {
            return Ok(value);
        }
        let value = Rc::new(read(&key)?);
        *self.0.borrow_mut() = Some((key, Rc::clone(&value) as Rc<dyn Any>));
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
