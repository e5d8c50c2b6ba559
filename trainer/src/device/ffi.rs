//! What calls into `cpp/` and `cuda/` share: tensors as C sees them, and errors.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

/// A list of tensors as C sees it.
pub(crate) struct Pointers<'a>(Vec<*mut C_tensor>, PhantomData<&'a [Tensor]>);

impl<'a> Pointers<'a> {
    pub(crate) fn of(tensors: &'a [Tensor]) -> Self {
        Self(tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect(), PhantomData)
    }

    pub(crate) fn first(&self) -> *const *mut C_tensor {
        self.0.as_ptr()
    }

    pub(crate) fn count(&self) -> i64 {
        self.0.len() as i64
    }
}

/// Null for `None`.
pub(super) fn optional(tensor: Option<&Tensor>) -> *const C_tensor {
    tensor.map_or(ptr::null(), Tensor::as_ptr)
}

/// Returns the tensor that `call` creates. Panics with libtorch's message, as tch's operators do.
pub(super) fn result(call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char) -> Tensor {
    let mut made = ptr::null_mut();
    unwrap(call(&raw mut made));
    // SAFETY: the call succeeded, so this is a new tensor, which nobody else owns.
    unsafe { Tensor::from_ptr(made) }
}

/// Returns the tensor that `call` creates.
///
/// # Errors
/// libtorch's exception.
pub(super) fn fallible(call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char) -> Result<Tensor, TchError> {
    let mut made = ptr::null_mut();
    match message(call(&raw mut made)) {
        Some(error) => Err(TchError::Torch(error)),
        // SAFETY: the call succeeded, so this is a new tensor, which nobody else owns.
        None => Ok(unsafe { Tensor::from_ptr(made) }),
    }
}

/// Panics with the message of a call that failed.
pub(super) fn unwrap(failed: *mut c_char) {
    if let Some(message) = message(failed) {
        panic!("{message}");
    }
}

/// The message of a call that failed; `None` if it succeeded.
pub(crate) fn message(failed: *mut c_char) -> Option<String> {
    if failed.is_null() {
        return None;
    }
    // SAFETY: a message is NUL-terminated and was allocated by strdup.
    unsafe {
        let message = CStr::from_ptr(failed).to_string_lossy().into_owned();
        libc::free(failed.cast());
        Some(message)
    }
}
