//! The arguments of a node, by the names of ATen's schemas. Every one must be asked for: what is not known could change
//! what the operator computes.

use super::error::OrFault;
use super::graph::{Value, ValueId};
use super::schema::{Argument, NamedArgument, SizeArgument};
use super::scope::ValueScope;
use super::size::Size;
use crate::checkpoint::error::shown;

/// Most dimensions of a tensor, and most numbers in a list.
pub(super) const MOST_DIMENSIONS: usize = 16;
/// Most tensors of an argument.
const MOST_TENSORS: usize = 1024;

/// A size that a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedSize {
    Known(Size),
    /// -1: whatever is left, or as it is.
    Open,
}

pub(super) struct Arguments<'a> {
    pub(super) scope: &'a ValueScope,
    /// Whether the node is computed here, from constants: then its tensors may have any type.
    pub(super) folds: bool,
    left: Vec<&'a NamedArgument>,
    /// The tensors that were asked for, in order.
    pub(super) tensors: Vec<ValueId>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(scope: &'a ValueScope, arguments: &'a [NamedArgument]) -> Self {
        Self { scope, folds: false, left: arguments.iter().collect(), tensors: Vec::new() }
    }

    /// The arguments of a node that is computed here.
    pub(super) fn folding(scope: &'a ValueScope, arguments: &'a [NamedArgument]) -> Self {
        Self { folds: true, ..Self::new(scope, arguments) }
    }

    /// Refuses arguments that were not asked for.
    pub(super) fn finish(self) -> OrFault<Vec<ValueId>> {
        match self.left.first() {
            None => Ok(self.tensors),
            Some(argument) => Err(format!("has an argument {} that is not supported", shown(&argument.name))),
        }
    }

    /// The argument, unless it is missing or None.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Argument> {
        let at = self.left.iter().position(|argument| argument.name == name)?;
        match &self.left.remove(at).arg {
            Argument::None => None,
            argument => Some(argument),
        }
    }

    /// Passes over what says where elements are, not what they are.
    pub(super) fn pass(&mut self, names: &[&str]) {
        self.left.retain(|argument| !names.contains(&argument.name.as_str()));
    }

    /// What a tensor's name stands for.
    pub(super) fn value(&mut self, name: &str) -> OrFault<&'a Value> {
        let id = self.scope.resolve(name)?;
        let id = if self.folds { id } else { self.scope.settled(id) };
        self.tensors.push(id);
        Ok(self.scope.value(id))
    }

    pub(super) fn tensor(&mut self, name: &str) -> OrFault<&'a Value> {
        self.optional_tensor(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn optional_tensor(&mut self, name: &str) -> OrFault<Option<&'a Value>> {
        match self.take(name) {
            None => Ok(None),
            Some(Argument::Tensor(tensor)) => self.value(tensor).map(Some),
            Some(_) => Err(unexpected(name)),
        }
    }

    pub(super) fn tensors(&mut self, name: &str) -> OrFault<()> {
        match self.take(name) {
            Some(Argument::Tensors(tensors)) if !tensors.is_empty() => {
                few(name, tensors.len())?;
                tensors.iter().try_for_each(|tensor| self.value(tensor).map(drop))
            }
            _ => Err(unexpected(name)),
        }
    }

    /// The tensors of a list, some of which are left out.
    pub(super) fn optional_tensors(&mut self, name: &str) -> OrFault<Vec<Option<ValueId>>> {
        let names: Vec<Option<&String>> = match self.take(name) {
            Some(Argument::OptionalTensors(tensors)) => tensors.iter().map(Option::as_ref).collect(),
            Some(Argument::Tensors(tensors)) => tensors.iter().map(Some).collect(),
            _ => return Err(unexpected(name)),
        };
        few(name, names.len())?;
        let mut ids = Vec::new();
        for name in names {
            let id = name.map(|name| self.value(name)).transpose()?;
            ids.push(id.and(self.tensors.last().copied()));
        }
        Ok(ids)
    }

    pub(super) fn int(&mut self, name: &str, default: Option<i64>) -> OrFault<i64> {
        match self.take(name) {
            None => default.ok_or_else(|| missing(name)),
            Some(Argument::Int(number) | Argument::SymInt(SizeArgument::Int(number))) => Ok(*number),
            Some(Argument::SymInt(size)) => {
                let size = self.scope.size(size)?.fixed().ok_or_else(|| of_batch(name))?;
                i64::try_from(size).map_err(|_| unexpected(name))
            }
            Some(_) => Err(unexpected(name)),
        }
    }

    pub(super) fn count(&mut self, name: &str, default: Option<i64>) -> OrFault<u64> {
        u64::try_from(self.int(name, default)?).map_err(|_| format!("has a negative {name}"))
    }

    /// Numbers that do not depend on the batch; a single one is a list of one.
    pub(super) fn ints(&mut self, name: &str) -> OrFault<Option<Vec<i64>>> {
        let numbers = match self.take(name) {
            None => return Ok(None),
            Some(Argument::Int(number)) => vec![*number],
            Some(Argument::Ints(numbers)) => numbers.clone(),
            Some(Argument::SymInts(sizes)) => {
                let number = |size: &SizeArgument| match size {
                    SizeArgument::Int(number) => Ok(*number),
                    SizeArgument::Name(_) => {
                        let size = self.scope.size(size)?.fixed().ok_or_else(|| of_batch(name))?;
                        i64::try_from(size).map_err(|_| unexpected(name))
                    }
                };
                sizes.iter().take(MOST_DIMENSIONS * MOST_DIMENSIONS).map(number).collect::<OrFault<_>>()?
            }
            Some(_) => return Err(unexpected(name)),
        };
        Ok(Some(numbers))
    }

    /// One or two numbers for height and width.
    pub(super) fn pair(&mut self, name: &str, default: Option<[u64; 2]>) -> OrFault<[u64; 2]> {
        let numbers = self.ints(name)?.filter(|numbers| !numbers.is_empty());
        let Some(numbers) = numbers else { return default.ok_or_else(|| missing(name)) };
        let [height, width] = match *numbers.as_slice() {
            [both] => [both, both],
            [height, width] => [height, width],
            _ => return Err(unexpected(name)),
        };
        let number = |number: i64| u64::try_from(number).map_err(|_| format!("has a negative {name}"));
        Ok([number(height)?, number(width)?])
    }

    /// A shape, in which -1 leaves a size open.
    pub(super) fn shape(&mut self, name: &str) -> OrFault<Vec<WantedSize>> {
        let sizes = match self.take(name) {
            Some(Argument::Ints(sizes)) => sizes.iter().map(|&size| SizeArgument::Int(size)).collect(),
            Some(Argument::SymInts(sizes)) => sizes.clone(),
            _ => return Err(unexpected(name)),
        };
        if sizes.len() > MOST_DIMENSIONS {
            return Err(format!("has more than {MOST_DIMENSIONS} dimensions"));
        }
        let size = |size: &SizeArgument| match size {
            SizeArgument::Int(-1) => Ok(WantedSize::Open),
            size => self.scope.size(size).map(WantedSize::Known),
        };
        sizes.iter().map(size).collect()
    }

    pub(super) fn number(&mut self, name: &str, default: Option<f64>) -> OrFault<f64> {
        self.optional_number(name)?.or(default).ok_or_else(|| missing(name))
    }

    pub(super) fn optional_number(&mut self, name: &str) -> OrFault<Option<f64>> {
        match self.take(name) {
            None => Ok(None),
            Some(Argument::Float(number)) => Ok(Some(*number)),
            Some(Argument::Int(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(unexpected(name)),
        }
    }

    /// Two numbers for height and width, if there are any.
    pub(super) fn numbers(&mut self, name: &str) -> OrFault<Option<Vec<f64>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Argument::Floats(numbers)) => Ok(Some(numbers.clone())),
            Some(Argument::Ints(numbers)) => Ok(Some(numbers.iter().map(|&number| number as f64).collect())),
            Some(_) => Err(unexpected(name)),
        }
    }

    pub(super) fn flag(&mut self, name: &str, default: Option<bool>) -> OrFault<bool> {
        match self.take(name) {
            None => default.ok_or_else(|| missing(name)),
            Some(Argument::Bool(flag)) => Ok(*flag),
            Some(_) => Err(unexpected(name)),
        }
    }

    pub(super) fn is_missing(&self, name: &str) -> bool {
        let given = self.left.iter().find(|argument| argument.name == name);
        given.is_none_or(|argument| matches!(argument.arg, Argument::None))
    }

    /// Whether an argument that was not asked for yet is a text.
    pub(super) fn is_text(&self, name: &str) -> bool {
        self.left.iter().any(|argument| argument.name == name && matches!(argument.arg, Argument::Text(_)))
    }

    pub(super) fn text(&mut self, name: &str, default: &'a str) -> OrFault<&'a str> {
        match self.take(name) {
            None => Ok(default),
            Some(Argument::Text(text)) => Ok(text),
            Some(_) => Err(unexpected(name)),
        }
    }

    /// Dimensions of a tensor with `rank` dimensions, from the front and in order; all of them if none are given.
    pub(super) fn dimensions(&mut self, name: &str, rank: usize) -> OrFault<Vec<usize>> {
        let numbers = self.ints(name)?.unwrap_or_default();
        if numbers.len() > rank {
            return Err(format!("names {} of {rank} dimensions", numbers.len()));
        }
        if numbers.is_empty() {
            return Ok((0..rank).collect());
        }
        let mut dimensions = numbers.into_iter().map(|number| dimension(number, rank)).collect::<OrFault<Vec<_>>>()?;
        dimensions.sort_unstable();
        if dimensions.array_windows().any(|[one, two]| one == two) {
            return Err("names a dimension twice".to_owned());
        }
        Ok(dimensions)
    }

    /// A dimension of a tensor with `rank` dimensions, from the front; negative numbers count from the end.
    pub(super) fn dimension(&mut self, name: &str, default: Option<i64>, rank: usize) -> OrFault<usize> {
        dimension(self.int(name, default)?, rank)
    }
}

/// A dimension from the front.
pub(super) fn dimension(number: i64, rank: usize) -> OrFault<usize> {
    let rank_number = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_front = if number < 0 { number.saturating_add(rank_number) } else { number };
    let found = usize::try_from(from_front).ok().filter(|&dimension| dimension < rank);
    found.ok_or_else(|| format!("refers to dimension {number} of a tensor with {rank} dimensions"))
}

/// Refuses too many tensors: what is made for each takes far more memory than its name in the file.
fn few(name: &str, count: usize) -> OrFault<()> {
    match count <= MOST_TENSORS {
        true => Ok(()),
        false => Err(format!("has {count} tensors in its argument {name}, and {MOST_TENSORS} are read at most")),
    }
}

pub(super) fn missing(name: &str) -> String {
    format!("lacks its argument {name}")
}

pub(super) fn unexpected(name: &str) -> String {
    format!("has an argument {name} of a kind that is not supported")
}

fn of_batch(name: &str) -> String {
    format!("has an argument {name} that depends on the batch size")
}
