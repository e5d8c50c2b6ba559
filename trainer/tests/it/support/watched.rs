//! Waiting for what other threads of this process do.

use std::sync::{Condvar, Mutex, MutexGuard};

/// A value that other threads change and a test waits for.
#[derive(Debug, Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn get(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.get());
        self.changed.notify_all();
    }

    /// Waits until the value fulfils a condition.
    pub fn once(&self, is_wanted: impl Fn(&T) -> bool) -> MutexGuard<'_, T> {
        self.changed.wait_while(self.get(), |value| !is_wanted(value)).unwrap()
    }
}
