//! Which operators a step issues. A CUDA graph replays the same ones with the same numbers, so no operator, shape or
//! number of a step may depend on computed values. A trace on the CPU shows whether one does.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CStr, c_char};
use std::ptr;

use super::ffi::{message, unwrap};

unsafe extern "C" {
    fn distillery_trace_begin(handle: *mut u64) -> *mut c_char;
    fn distillery_trace_end(handle: u64, lines: *mut *mut c_char) -> *mut c_char;
}

/// An operator that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The number of operators around it.
    pub depth: usize,
    /// Its name, such as `aten::conv2d`.
    pub name: String,
    /// Its arguments: kinds and shapes of tensors, and the values of everything else.
    pub arguments: String,
}

/// A running trace, which ends when it is dropped.
struct Recording {
    handle: u64,
}

impl Recording {
    fn begin() -> Self {
        let mut handle = 0;
        // SAFETY: the handle is written while the function is called.
        unwrap(unsafe { distillery_trace_begin(&raw mut handle) });
        Self { handle }
    }

    fn end(&self) -> Result<String, String> {
        let mut lines = ptr::null_mut();
        // SAFETY: the handle is of a trace that this thread began.
        if let Some(error) = message(unsafe { distillery_trace_end(self.handle, &raw mut lines) }) {
            return Err(error);
        }
        // SAFETY: the call succeeded, so this text is NUL-terminated and was allocated by strdup.
        unsafe {
            let text = CStr::from_ptr(lines).to_string_lossy().into_owned();
            libc::free(lines.cast());
            Ok(text)
        }
    }
}

/// Removes the trace of work that panicked.
impl Drop for Recording {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.end();
        }
    }
}

/// Does some work and returns the operators that it issued on this thread, in the order in which they began. On the CPU
/// these are all; on a GPU backward has a thread of its own.
///
/// # Panics
/// Where libtorch cannot trace.
pub fn operators<T>(work: impl FnOnce() -> T) -> (T, Vec<Operator>) {
    let recording = Recording::begin();
    let made = work();
    let lines = recording.end().unwrap_or_else(|error| panic!("{error}"));
    let operator = |line: &str| {
        let mut parts = line.splitn(3, '\t');
        let depth = parts.next()?.parse().ok()?;
        Some(Operator { depth, name: parts.next()?.to_owned(), arguments: parts.next()?.to_owned() })
    };
    (made, lines.lines().filter_map(operator).collect())
}
