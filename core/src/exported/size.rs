//! Sizes of tensors: numbers, and multiples of the batch size, which a file leaves open.

use std::fmt;

/// Deepest nesting of a symbolic expression.
const DEEPEST: usize = 8;
/// Longest symbolic expression, in bytes.
const LONGEST: usize = 1000;

/// Most elements of a value, per image.
pub(super) const MOST_ELEMENTS: u64 = 1 << 32;

/// One dimension of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    Fixed(u64),
    /// This many times the batch size B.
    Batch(u64),
}

/// The dimensions of a tensor.
pub(super) type Shape = Vec<Size>;

impl Size {
    /// The number, if it does not depend on the batch.
    #[must_use]
    pub fn fixed(self) -> Option<u64> {
        match self {
            Self::Fixed(size) => Some(size),
            Self::Batch(_) => None,
        }
    }

    /// The size with one image.
    #[must_use]
    pub fn per_image(self) -> u64 {
        match self {
            Self::Fixed(size) | Self::Batch(size) => size,
        }
    }

    /// `None` on overflow, and for the square of the batch size.
    pub(super) fn times(self, other: Self) -> Option<Self> {
        let product = self.per_image().checked_mul(other.per_image())?;
        match (self, other) {
            (Self::Fixed(_), Self::Fixed(_)) => Some(Self::Fixed(product)),
            (Self::Batch(_), Self::Batch(_)) => None,
            _ => Some(Self::Batch(product)),
        }
    }

    /// `None` if there is a remainder, or if the batch size would be a divisor only.
    pub(super) fn divided_by(self, other: Self) -> Option<Self> {
        let quotient = self.per_image().checked_div(other.per_image())?;
        let is_exact = quotient.checked_mul(other.per_image())? == self.per_image();
        match (self, other) {
            _ if !is_exact => None,
            (Self::Fixed(_), Self::Batch(_)) => None,
            (Self::Batch(_), Self::Fixed(_)) => Some(Self::Batch(quotient)),
            _ => Some(Self::Fixed(quotient)),
        }
    }

    /// `None` on overflow, and for the sum of a number and a batch size.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let sum = self.per_image().checked_add(other.per_image())?;
        match (self, other) {
            (Self::Fixed(_), Self::Fixed(_)) => Some(Self::Fixed(sum)),
            (Self::Batch(_), Self::Batch(_)) => Some(Self::Batch(sum)),
            _ => None,
        }
    }

    /// Reads an expression as PyTorch writes it: `Mul(Integer(4), Symbol('s77', positive=True, integer=True))`, where
    /// `batch` is the name of the batch size. `None` for any other symbol or function.
    pub(super) fn of_expression(text: &str, batch: &str) -> Option<Self> {
        let (size, rest) = term(text.get(..text.len().min(LONGEST))?, batch, 0)?;
        rest.trim().is_empty().then_some(size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(formatter, "{size}"),
            Self::Batch(1) => formatter.write_str("B"),
            Self::Batch(times) => write!(formatter, "{times}·B"),
        }
    }
}

/// The name in an expression that is a symbol and nothing else.
pub(super) fn symbol(expression: &str) -> Option<&str> {
    let (name, rest) = expression.trim().strip_prefix("Symbol('")?.split_once('\'')?;
    let arguments = rest.strip_suffix(')')?;
    (!name.is_empty() && name.len() <= 80 && !arguments.contains(['(', ')'])).then_some(name)
}

fn term<'a>(text: &'a str, batch: &str, depth: usize) -> Option<(Size, &'a str)> {
    let text = text.trim_start();
    if let Some(rest) = text.strip_prefix("Integer(") {
        let (number, rest) = rest.split_once(')')?;
        return Some((Size::Fixed(number.trim().parse().ok()?), rest));
    }
    if text.starts_with("Symbol(") {
        let (symbol_text, rest) = text.split_at(text.find(')')? + 1);
        return (symbol(symbol_text)? == batch).then_some((Size::Batch(1), rest));
    }
    let mut rest = text.strip_prefix("Mul(").filter(|_| depth < DEEPEST)?;
    let mut product = Size::Fixed(1);
    loop {
        let (factor, after) = term(rest, batch, depth + 1)?;
        product = product.times(factor)?;
        let after = after.trim_start();
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Some((product, after.strip_prefix(')')?)),
        }
    }
}

/// The product of all sizes: a number of elements. `None` on overflow, and if the batch size is in it twice.
pub(super) fn product(shape: &[Size]) -> Option<Size> {
    shape.iter().try_fold(Size::Fixed(1), |product, &size| product.times(size))
}

/// A shape for people: `[B, 3, 64, 64]`.
pub(super) fn shown_shape(shape: &[Size]) -> String {
    let sizes: Vec<_> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", sizes.join(", "))
}
