//! Operators that are read only where they compute constants.

use super::Constant;
use super::compute::{counted, groups, of_all, of_each, sign, to_the_end};
use crate::checkpoint::Dtype;
use crate::exported::arguments::Arguments;
use crate::exported::error::OrFault;
use crate::exported::functions::{known_shape, operand};
use crate::exported::matrices::Triangle;
use crate::exported::op::Operand;
use crate::exported::rules::{broadcast, without_dimensions};
use crate::exported::schema::Argument;
use crate::exported::size::Size;

/// A node that computes a constant.
pub(in crate::exported) struct Creation<'a, 'b> {
    pub(in crate::exported) arguments: &'a mut Arguments<'b>,
    /// The element type that PyTorch recorded.
    pub(in crate::exported) dtype: Dtype,
}

type ConstantOperator = fn(&mut Creation<'_, '_>) -> OrFault<Constant>;

/// The operator with this name, if it is one.
pub(in crate::exported) fn creation(name: &str) -> Option<ConstantOperator> {
    let operator: ConstantOperator = match name {
        "zeros.default" | "new_zeros.default" => |node| node.filled(Some(0.0)),
        "ones.default" | "new_ones.default" => |node| node.filled(Some(1.0)),
        "full.default" | "new_full.default" => |node| node.filled(None),
        "zeros_like.default" => |node| node.filled_like(Some(0.0)),
        "ones_like.default" => |node| node.filled_like(Some(1.0)),
        "full_like.default" => |node| node.filled_like(None),
        "scalar_tensor.default" => |node| node.scalar(),
        "arange.default" | "arange.start" | "arange.start_step" => |node| node.range(),
        "linspace.default" => |node| node.evenly_spaced(),
        "eye.default" | "eye.m" => |node| node.diagonal(),
        "tril.default" => |node| node.triangle(Triangle::Lower),
        "triu.default" => |node| node.triangle(Triangle::Upper),
        "cumsum.default" => |node| node.running_sum(),
        "sum.default" | "sum.dim_IntList" => |node| node.sum(),
        "fill.Scalar" | "fill.Tensor" => |node| node.fill(),
        "copy.default" => |node| node.copy(),
        "to.dtype" | "to.dtype_layout" | "to.device" | "to.other" | "_to_copy.default" | "type_as.default" => {
            |node| node.converted()
        }
        "clone.default" | "lift_fresh_copy.default" => |node| node.copied(),
        "detach.default" | "alias.default" | "contiguous.default" => |node| node.same(),
        "sin.default" => |node| node.each(f64::sin),
        "cos.default" => |node| node.each(f64::cos),
        "floor.default" => |node| node.each(f64::floor),
        "ceil.default" => |node| node.each(f64::ceil),
        "round.default" => |node| node.each(f64::round_ties_even),
        "sign.default" => |node| node.each(sign),
        "bitwise_not.default" | "logical_not.default" => |node| node.negated(),
        "eq.Scalar" | "eq.Tensor" => |node| node.compared(|one, two| one == two),
        "ne.Scalar" | "ne.Tensor" => |node| node.compared(|one, two| one != two),
        "lt.Scalar" | "lt.Tensor" => |node| node.compared(|one, two| one < two),
        "le.Scalar" | "le.Tensor" => |node| node.compared(|one, two| one <= two),
        "gt.Scalar" | "gt.Tensor" => |node| node.compared(|one, two| one > two),
        "ge.Scalar" | "ge.Tensor" => |node| node.compared(|one, two| one >= two),
        "logical_and.default" | "bitwise_and.Tensor" | "__and__.Tensor" => {
            |node| node.compared(|one, two| one != 0.0 && two != 0.0)
        }
        "logical_or.default" | "bitwise_or.Tensor" | "__or__.Tensor" => {
            |node| node.compared(|one, two| one != 0.0 || two != 0.0)
        }
        "div.Tensor_mode" | "div.Scalar_mode" => |node| node.divided(),
        "floor_divide.default" | "floor_divide.Scalar" => {
            |node| node.combined("self", "other", |one, two| (one / two).floor())
        }
        "remainder.Scalar" | "remainder.Tensor" => {
            |node| node.combined("self", "other", |one, two| one - two * (one / two).floor())
        }
        "pow.Scalar" | "pow.Tensor_Tensor" => |node| node.combined("self", "exponent", f64::powf),
        _ => return None,
    };
    Some(operator)
}

impl Creation<'_, '_> {
    fn pass_placement(&mut self) {
        let names = ["dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"];
        self.arguments.pass(&names);
    }

    fn make(&self, shape: &[Size], element: impl Fn(usize) -> f64) -> OrFault<Constant> {
        let count = shape.iter().fold(1_u64, |count, size| count.saturating_mul(size.per_image()));
        self.arguments.scope.spend(count)?;
        of_all((0..count as usize).map(element), shape, self.dtype)
    }

    /// One of the tensors that were asked for.
    fn constant(&self, at: usize) -> OrFault<Constant> {
        let found = self.arguments.tensors.get(at).and_then(|&id| self.arguments.scope.constant(id));
        found.cloned().ok_or_else(|| "depends on more than constants".to_owned())
    }

    fn input(&mut self) -> OrFault<Constant> {
        self.arguments.tensor("self")?;
        self.constant(0)
    }

    fn filled(&mut self, value: Option<f64>) -> OrFault<Constant> {
        // It gives type and device alone.
        self.arguments.pass(&["self"]);
        let shape = known_shape(self.arguments, "size")?;
        let value = self.value(value)?;
        self.pass_placement();
        self.make(&shape, |_| value)
    }

    fn filled_like(&mut self, value: Option<f64>) -> OrFault<Constant> {
        let shape = self.arguments.tensor("self")?.shape.clone();
        let value = self.value(value)?;
        self.pass_placement();
        self.make(&shape, |_| value)
    }

    fn value(&mut self, value: Option<f64>) -> OrFault<f64> {
        match value {
            Some(value) => Ok(value),
            None => self.arguments.number("fill_value", None),
        }
    }

    fn scalar(&mut self) -> OrFault<Constant> {
        let value = self.arguments.number("s", None)?;
        self.pass_placement();
        self.make(&[], |_| value)
    }

    fn range(&mut self) -> OrFault<Constant> {
        let start = self.arguments.number("start", Some(0.0))?;
        let end = self.arguments.number("end", None)?;
        let step = self.arguments.number("step", Some(1.0))?;
        self.pass_placement();
        let count = ((end - start) / step).ceil();
        if !(1.0..=f64::from(u32::MAX)).contains(&count) {
            return Err("counts from a number to one before it, or too far".to_owned());
        }
        self.make(&[Size::Fixed(count as u64)], |at| start + step * at as f64)
    }

    fn evenly_spaced(&mut self) -> OrFault<Constant> {
        let (start, end) = (self.arguments.number("start", None)?, self.arguments.number("end", None)?);
        let steps = self.arguments.count("steps", None)?;
        self.pass_placement();
        let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
        let element = |at: usize| match (at as u64) < steps / 2 || steps == 1 {
            true => start + step * at as f64,
            false => end - step * (steps - 1 - at as u64) as f64,
        };
        self.make(&[Size::Fixed(steps)], element)
    }

    /// Ones where row and column are the same.
    fn diagonal(&mut self) -> OrFault<Constant> {
        let rows = self.arguments.count("n", None)?;
        let columns = self.arguments.count("m", i64::try_from(rows).ok())?;
        self.pass_placement();
        let element = |at: usize| f64::from(u8::from(at as u64 / columns == at as u64 % columns));
        self.make(&[Size::Fixed(rows), Size::Fixed(columns)], element)
    }

    /// The elements of a triangle of each matrix, and zeros.
    fn triangle(&mut self, triangle: Triangle) -> OrFault<Constant> {
        let input = self.input()?;
        let diagonal = self.arguments.int("diagonal", Some(0))?;
        let [.., Size::Fixed(rows), Size::Fixed(columns)] = input.shape[..] else {
            return Err("takes triangles of what is no matrix".to_owned());
        };
        let elements = counted(self.arguments.scope, &input)?.into_iter().enumerate();
        let kept = elements.map(|(at, element)| {
            let at = at as u64;
            if triangle.contains(diagonal, at / columns % rows, at % columns) { element } else { 0.0 }
        });
        of_all(kept, &input.shape, self.dtype)
    }

    /// By itself: the sum of integers is an integer, and their mean need not be.
    fn sum(&mut self) -> OrFault<Constant> {
        let input = self.input()?;
        let dimensions = self.arguments.dimensions("dim", input.shape.len())?;
        let keeps = self.arguments.flag("keepdim", Some(false))?;
        self.pass_placement();
        let shape = without_dimensions(&input.shape, &dimensions, keeps)?;
        let (elements, count) = groups(self.arguments.scope, &input, &dimensions)?;
        of_all(elements.chunks(count).map(|group| group.iter().sum::<f64>()), &shape, self.dtype)
    }

    fn running_sum(&mut self) -> OrFault<Constant> {
        let input = self.input()?;
        let dimension = self.arguments.dimension("dim", None, input.shape.len())?;
        self.pass_placement();
        let Some(length) = input.shape[dimension].fixed() else {
            return Err("sums over the batch, which is not supported".to_owned());
        };
        let last = to_the_end(&input, dimension);
        let mut elements = counted(self.arguments.scope, &last)?;
        for group in elements.chunks_mut(length as usize) {
            let mut sum = 0.0;
            for element in group {
                sum += *element;
                *element = sum;
            }
        }
        let sums = of_all(elements.into_iter(), &last.shape, self.dtype)?;
        let mut order: Vec<usize> = (0..last.shape.len() - 1).collect();
        order.insert(dimension, last.shape.len() - 1);
        Ok(sums.permuted(&order))
    }

    /// The value of an argument for each element of the first.
    fn fill(&mut self) -> OrFault<Constant> {
        let shape = self.input()?.shape;
        let value = match operand(self.arguments, "value")? {
            Operand::Number(value) => value,
            Operand::Tensor => self.only_element()?,
        };
        self.make(&shape, |_| value)
    }

    fn only_element(&mut self) -> OrFault<f64> {
        let value = self.constant(1)?;
        match counted(self.arguments.scope, &value)?.as_slice() {
            [only] => Ok(*only),
            _ => Err("fills with more than one number".to_owned()),
        }
    }

    fn copy(&mut self) -> OrFault<Constant> {
        let shape = self.input()?.shape;
        self.arguments.tensor("src")?;
        self.pass_placement();
        let source = self.constant(1)?;
        let fits = source.shape.len() <= shape.len()
            && source.shape.iter().rev().zip(shape.iter().rev()).all(|(one, two)| one == two || *one == Size::Fixed(1));
        if !fits {
            return Err("copies a tensor of another shape".to_owned());
        }
        of_each(counted(self.arguments.scope, &source.expanded(&shape))?, &shape, self.dtype, |x| x)
    }

    fn converted(&mut self) -> OrFault<Constant> {
        let input = self.input()?;
        let copies = matches!(self.arguments.take("copy"), Some(Argument::Bool(true)));
        self.arguments.pass(&["other"]);
        self.pass_placement();
        if input.dtype == self.dtype && !copies {
            return Ok(input);
        }
        of_each(counted(self.arguments.scope, &input)?, &input.shape, self.dtype, |x| x)
    }

    fn copied(&mut self) -> OrFault<Constant> {
        let input = self.input()?;
        self.pass_placement();
        of_each(counted(self.arguments.scope, &input)?, &input.shape, self.dtype, |x| x)
    }

    fn same(&mut self) -> OrFault<Constant> {
        self.pass_placement();
        self.input()
    }

    fn each(&mut self, function: fn(f64) -> f64) -> OrFault<Constant> {
        let input = self.input()?;
        of_each(counted(self.arguments.scope, &input)?, &input.shape, self.dtype, function)
    }

    fn negated(&mut self) -> OrFault<Constant> {
        let input = self.input()?;
        if input.dtype != Dtype::Bool || self.dtype != Dtype::Bool {
            return Err("negates the bits of numbers, which is not supported".to_owned());
        }
        of_each(counted(self.arguments.scope, &input)?, &input.shape, self.dtype, |x| 1.0 - x)
    }

    fn compared(&mut self, holds: fn(f64, f64) -> bool) -> OrFault<Constant> {
        if self.dtype != Dtype::Bool {
            return Err("compares, but has a result that is not boolean".to_owned());
        }
        self.combine("self", "other", |one, two| f64::from(u8::from(holds(one, two))))
    }

    fn combined(&mut self, one: &str, two: &str, combine: fn(f64, f64) -> f64) -> OrFault<Constant> {
        self.combine(one, two, combine)
    }

    fn combine(&mut self, one: &str, two: &str, combine: impl Fn(f64, f64) -> f64) -> OrFault<Constant> {
        let (one, two) = (operand(self.arguments, one)?, operand(self.arguments, two)?);
        let number = |value: f64| Constant::new(Dtype::F64, Vec::new(), vec![value]);
        let (one, two) = match (one, two) {
            (Operand::Tensor, Operand::Tensor) => (self.constant(0)?, self.constant(1)?),
            (Operand::Tensor, Operand::Number(two)) => (self.constant(0)?, number(two)),
            (Operand::Number(one), Operand::Tensor) => (number(one), self.constant(0)?),
            (Operand::Number(one), Operand::Number(two)) => (number(one), number(two)),
        };
        let shape = broadcast(&one.shape, &two.shape)?;
        let one = counted(self.arguments.scope, &one.expanded(&shape))?;
        let two = counted(self.arguments.scope, &two.expanded(&shape))?;
        of_all(one.into_iter().zip(two).map(|(one, two)| combine(one, two)), &shape, self.dtype)
    }

    fn divided(&mut self) -> OrFault<Constant> {
        let rounding: fn(f64) -> f64 = match self.arguments.text("rounding_mode", "")? {
            "floor" => f64::floor,
            "trunc" => f64::trunc,
            "" => |x| x,
            _ => return Err("rounds in an unknown way".to_owned()),
        };
        self.combine("self", "other", |one, two| rounding(one / two))
    }
}
