//! Bounds on the rounding error of float32 that hold on any processor.

use std::fmt::Display;
use std::ops::{Add, Div, Mul, Sub};

/// Unit roundoff of float32: the largest relative error of a rounding.
pub const U: f64 = 1.0 / (1_u32 << 24) as f64;

/// A float64 number, and how far a float32 computation of it may be off.
///
/// Arithmetic on it is a running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, §3.3): an
/// operation propagates the errors of its operands and adds that of rounding its result. Fused operations round less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounded {
    pub value: f64,
    pub error: f64,
}

impl Bounded {
    /// A number that float32 represents exactly.
    pub fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A number that is rounded to float32.
    pub fn rounded(value: f64) -> Self {
        Self { value, error: 0.0 }.rounding()
    }

    pub fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        Self { value, error: (self.value + self.error).sqrt() - value }.rounding()
    }

    fn rounding(self) -> Self {
        Self { error: self.error + U * self.value.abs(), ..self }
    }

    /// Adds a multiple of another number without rounding.
    pub fn add(&mut self, other: Self, factor: f64) {
        self.value += factor * other.value;
        self.error += factor.abs() * other.error;
    }

    /// Fails if `found` is further from the value than float32 explains.
    #[track_caller]
    pub fn assert(self, found: f64, what: &dyn Display) {
        let Self { value, error } = self;
        let off = (found - value).abs();
        assert!(off <= error, "{what}: {found} instead of {value}, {off:e} off where float32 allows {error:e}");
    }
}

impl Add for Bounded {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, error: self.error + other.error }.rounding()
    }
}

impl Sub for Bounded {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, error: self.error + other.error }.rounding()
    }
}

impl Mul for Bounded {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let error = self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error;
        Self { value: self.value * other.value, error }.rounding()
    }
}

impl Div for Bounded {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        let error = (self.error + value.abs() * other.error) / (other.value.abs() - other.error);
        Self { value, error }.rounding()
    }
}
