//! The clocks of the programs that measure.

/// Seconds since some moment, or those that the threads of this process have been running.
#[allow(unsafe_code, reason = "the clock of a process has no safe interface here")]
pub fn seconds(processor: bool) -> f64 {
    let clock = if processor { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to a structure of ours.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
