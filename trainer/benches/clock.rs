//! The clocks of the benchmarks.

/// Seconds since an arbitrary moment, or the processor time of all threads of this process.
#[allow(unsafe_code, reason = "the clock of a process has no safe interface here")]
pub fn seconds(processor: bool) -> f64 {
    let clock = if processor { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the structure that it is given.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
