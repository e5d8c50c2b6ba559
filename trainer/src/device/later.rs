//! Numbers that a GPU has yet to compute, read without waiting for what was issued after them.
#![allow(unsafe_code, reason = "calls a function of C, and reads memory that a GPU writes")]

use std::ffi::c_char;
use std::time::{Duration, Instant};

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use super::ffi::{fallible, unwrap};

unsafe extern "C" {
    fn distillery_pin(result: *mut *mut C_tensor, tensor: *const C_tensor) -> *mut c_char;
    fn distillery_copy_later(destination: *const C_tensor, source: *const C_tensor) -> *mut c_char;
}

/// How long to poll for the number before asking libtorch, which waits for the whole device and reports its errors.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two polls.
const PAUSE: Duration = Duration::from_micros(20);

/// A copy in pinned memory of the host, which a GPU reads and writes while it computes.
///
/// # Errors
/// There is no GPU, or no memory.
pub(crate) fn pinned(tensor: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensor lives while the function is called.
    fallible(|made| unsafe { distillery_pin(made, tensor.as_ptr()) })
}

/// A float32 number on its way to the host. libtorch's own way of reading one waits for all work that was issued, so
/// that the device would be idle while the host issues the next.
#[derive(Debug)]
pub(crate) struct LaterNumber {
    /// `[1]`, on the device.
    source: Tensor,
    /// `[1]`, in pinned memory: NaN until the copy arrives. `None` on the CPU.
    host: Option<Tensor>,
}

impl LaterNumber {
    /// Sends a finite number `[1]`, which is copied first.
    pub(crate) fn send(number: &Tensor) -> Self {
        let source = number.copy();
        let host = matches!(source.device(), Device::Cuda(_)).then(|| {
            let unknown = Tensor::full([1], f64::NAN, (Kind::Float, Device::Cpu));
            // As tch's operators do.
            let host = pinned(&unknown).unwrap_or_else(|error| panic!("{error}"));
            // SAFETY: both tensors live as long as this value, and libtorch keeps freed pinned memory until the copies
            // that use it are done.
            unwrap(unsafe { distillery_copy_later(host.as_ptr(), source.as_ptr()) });
            host
        });
        Self { source, host }
    }

    /// The number. Waits until the device has computed it.
    pub(crate) fn read(&self) -> f64 {
        let begun = Instant::now();
        while let Some(host) = &self.host
            && begun.elapsed() < PATIENCE
        {
            // SAFETY: the tensor has one float32 number in the host's memory, which the device writes at once.
            let number = unsafe { host.data_ptr().cast::<f32>().read_volatile() };
            if !number.is_nan() {
                return f64::from(number);
            }
            std::thread::sleep(PAUSE);
        }
        self.source.double_value(&[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_value_while_its_tensor_changes() {
        let mut number = Tensor::from_slice(&[3.0_f32]);
        let later = LaterNumber::send(&number);
        let _ = number.zero_();
        assert_eq!((later.read(), later.read()), (3.0, 3.0));
    }
}
