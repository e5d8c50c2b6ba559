//! The ranks' process group, from libtorch's c10d through `cpp/ranks.cpp`.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::data::Shard;
use crate::device::ffi::{Pointers, message};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn distillery_ranks_join(
        result: *mut *mut c_void,
        file: *const c_char,
        rank: c_int,
        world_size: c_int,
        make: *const c_void,
    ) -> *mut c_char;
    fn distillery_ranks_all_reduce(ranks: *mut c_void, tensor: *const C_tensor, min: bool) -> *mut c_char;
    fn distillery_ranks_broadcast(ranks: *mut c_void, tensors: *const *mut C_tensor, count: i64) -> *mut c_char;
    fn distillery_ranks_average(ranks: *mut c_void, tensors: *const *mut C_tensor, count: i64) -> *mut c_char;
    fn distillery_ranks_prepare_backward(ranks: *mut c_void, loss: *const C_tensor) -> *mut c_char;
    fn distillery_ranks_leave(ranks: *mut c_void);
}

/// The process group of a run. All ranks call each function at the same place of the run, and it waits for the others.
#[derive(Debug)]
pub(super) struct ProcessGroup(*mut c_void);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by `join`, and nobody else has it.
        unsafe { distillery_ranks_leave(self.0) }
    }
}

/// How numbers of all ranks are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Min,
}

impl ProcessGroup {
    /// Joins the others through a file, which the first of them creates. `nccl` is
    /// [`Plugin::nccl`](crate::device::cuda::Plugin::nccl).
    pub(super) fn join(file: &Path, shard: Shard, nccl: Option<NonNull<c_void>>) -> Result<Self> {
        let path =
            CString::new(file.as_os_str().as_bytes()).map_err(|_| Error::user("the output's path holds a NUL"))?;
        let small = |number: u32| c_int::try_from(number).expect("there are 64 ranks at most");
        let (rank, world_size) = (small(shard.rank), small(shard.world_size));
        let make = nccl.map_or(ptr::null(), |make| make.as_ptr().cast_const());
        let mut group = ptr::null_mut();
        // SAFETY: the path is NUL-terminated; `make` is null or the function of that type in our own library.
        checked(unsafe { distillery_ranks_join(&raw mut group, path.as_ptr(), rank, world_size, make) })?;
        Ok(Self(group))
    }

    /// Replaces a tensor by the reduction over all ranks.
    pub(super) fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<()> {
        // SAFETY: the group lives. So does the tensor until the call returns, and the call counts references to it.
        checked(unsafe { distillery_ranks_all_reduce(self.0, tensor.as_ptr(), reduction == Reduction::Min) })
    }

    /// Overwrites tensors by rank 0's.
    pub(super) fn broadcast(&self, tensors: &[Tensor]) -> Result<()> {
        let pointers = Pointers::of(tensors);
        // SAFETY: as above.
        checked(unsafe { distillery_ranks_broadcast(self.0, pointers.first(), pointers.count()) })
    }

    /// Makes every backward average the gradients of these parameters, which come in the order of the forward pass.
    pub(super) fn average_gradients_of(&self, parameters: &[Tensor]) -> Result<()> {
        let pointers = Pointers::of(parameters);
        // SAFETY: as above.
        checked(unsafe { distillery_ranks_average(self.0, pointers.first(), pointers.count()) })
    }

    /// Must precede each backward after [`average_gradients_of`](Self::average_gradients_of).
    pub(super) fn prepare_backward(&self, loss: &Tensor) -> Result<()> {
        // SAFETY: as above, and `average_gradients_of` came before.
        checked(unsafe { distillery_ranks_prepare_backward(self.0, loss.as_ptr()) })
    }
}

fn checked(failed: *mut c_char) -> Result<()> {
    message(failed).map_or(Ok(()), |message| Err(Error::from_torch(&message)))
}
