//! How far rounding may take results from those of float64, on any processor: with whatever kernels and in whatever
//! order sums are computed.
//!
//! The error of a sum of n numbers is below λ·√n·u times the sum of their sizes, where u is the type's unit roundoff
//! and λ a small number (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019). The effect of
//! errors of that size on a result is measured in float64: every number that goes in is moved by as much, up or down,
//! and the result moves with it. Where terms cancel, or a number close to 0 changes its sign, it moves further.

use std::fmt::Display;

use tch::{Kind, Tensor};

use super::bounded::U;
use super::torch::hashed;

/// λ.
const DEVIATIONS: f64 = 4.0;

/// The relative size of the rounding errors of a computation.
#[derive(Debug, Clone, Copy)]
pub struct Rounding {
    pub relative: f64,
}

impl Rounding {
    /// For sums of `terms` numbers at most. In bfloat16, libtorch adds up in float32; a number that goes in, the result
    /// and what is between them are rounded.
    pub fn of(kind: Kind, terms: i64) -> Self {
        let of_sums = DEVIATIONS * (terms as f64).sqrt();
        let relative = match kind {
            Kind::Double => of_sums * f64::EPSILON / 2.0,
            Kind::Float => of_sums * U,
            Kind::BFloat16 => of_sums * U + 3.0 / 256.0,
            _ => panic!("{kind:?} is not computed in"),
        };
        Self { relative }
    }

    /// Moves numbers up or down by their rounding errors, in float64. Each `salt` has directions of its own.
    pub fn moved(self, tensor: &Tensor, salt: usize) -> Tensor {
        let directions = hashed(&tensor.size(), salt).sign();
        tensor.detach().to_kind(Kind::Double) * (directions * self.relative + 1.0)
    }

    /// Fails if `found` is further from `wanted` than rounding explains. `moved` is what float64 gives for numbers that
    /// were [`moved`](Self::moved).
    #[track_caller]
    pub fn assert(self, found: &Tensor, wanted: &Tensor, moved: &Tensor, what: &dyn Display) {
        assert_eq!(found.size(), wanted.size(), "{what}");
        let norm = |tensor: Tensor| tensor.norm().double_value(&[]);
        let off = norm(found.detach().to_kind(Kind::Double) - wanted);
        let (size, reach) = (norm(wanted.detach()), norm((moved - wanted).detach()));
        let allowed = self.relative * size + reach;
        assert!(off <= allowed, "{what}: {off:e} off {size:e}, where rounding explains {allowed:e}");
    }
}
