//! What the names of a program stand for, node by node.
//!
//! PyTorch's operators may overwrite a tensor, and a tensor may be a view of another. A network is read as if nothing
//! were overwritten: whoever names an overwritten tensor gets the result. Where that would not compute the same,
//! because the memory is used under another view, reading it fails.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use super::constants::Constant;
use super::error::OrFault;
use super::graph::{Value, ValueId};
use super::schema::SizeArgument;
use super::size::Size;
use crate::checkpoint::error::shown;

/// How many elements constants of a file of `length` bytes may be computed of, all together.
pub(super) fn most_elements(length: u64) -> u64 {
    length.saturating_mul(2).saturating_add(1 << 14).min(1 << 25)
}

#[derive(Debug, Default)]
pub(super) struct ValueScope {
    values: Vec<Value>,
    /// Tensors in memory.
    slots: Vec<Slot>,
    /// The slot of each name.
    names: HashMap<String, usize>,
    memories: Vec<SharedMemory>,
    sizes: HashMap<String, Size>,
    /// Names that have no meaning because of a fault that is already known.
    unknown: HashSet<String>,
    /// Names that may not be used, and what they are.
    refused: HashMap<String, &'static str>,
    /// Values that depend on nothing. They are not in the graph.
    constants: HashMap<ValueId, Constant>,
    /// What stands for a constant in the graph, and of which version of it.
    settled: HashMap<ValueId, (ValueId, u64)>,
    /// Elements that constants may still be computed of.
    budget: Cell<u64>,
    /// Results of operations that nodes may still be read as.
    results: Cell<u64>,
}

/// The message of a fault that follows from another, and is not worth a message of its own.
pub(super) const FOLLOWS: &str = "";

#[derive(Debug)]
struct Slot {
    value: ValueId,
    memory: usize,
    /// The node that overwrote the memory under another view.
    stale: Option<String>,
}

#[derive(Debug)]
struct SharedMemory {
    /// The first value in it.
    first: ValueId,
    /// The slots of the values that can still be used.
    slots: Vec<usize>,
}

/// Whose memory a new value has.
pub(super) enum ValueMemory<'a> {
    Own,
    /// That of the value with this name.
    Shared(&'a str),
    /// That of the value with this name, which it overwrites.
    Overwritten(&'a str),
}

impl ValueScope {
    /// With constants of this many elements, and operations with this many results, all together.
    pub(super) fn new(budget: u64, results: u64) -> Self {
        Self { budget: Cell::new(budget), results: Cell::new(results), ..Self::default() }
    }

    /// Counts the results of an operation.
    pub(super) fn spend_results(&self, count: usize) -> OrFault<()> {
        let left = self.results.get().checked_sub(count as u64);
        left.map(|left| self.results.set(left))
            .ok_or_else(|| "is read as more operations than a file of this size may have".to_owned())
    }

    /// Counts elements of constants.
    pub(super) fn spend(&self, elements: u64) -> OrFault<()> {
        let left = self.budget.get().checked_sub(elements);
        left.map(|left| self.budget.set(left))
            .ok_or_else(|| "needs more constants than a file of this size may have".to_owned())
    }

    pub(super) fn constant(&self, id: ValueId) -> Option<&Constant> {
        self.constants.get(&id)
    }

    pub(super) fn set_constant(&mut self, id: ValueId, constant: Constant) {
        self.constants.insert(id, constant);
    }

    /// What stands for a value in the graph.
    pub(super) fn settled(&self, id: ValueId) -> ValueId {
        self.settled.get(&id).map_or(id, |(settled, _)| *settled)
    }

    /// Whether something stands for this version of a constant.
    pub(super) fn is_settled(&self, id: ValueId, version: u64) -> bool {
        self.settled.get(&id).is_some_and(|(_, settled)| *settled == version)
    }

    pub(super) fn settle(&mut self, id: ValueId, version: u64, settled: ValueId) {
        self.settled.insert(id, (settled, version));
    }

    /// Adds a value without a name.
    pub(super) fn add_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        self.values.len() - 1
    }

    pub(super) fn value(&self, id: ValueId) -> &Value {
        &self.values[id]
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }

    pub(super) fn resolve(&self, name: &str) -> OrFault<ValueId> {
        let slot = &self.slots[*self.names.get(name).ok_or_else(|| self.undefined(name))?];
        match &slot.stale {
            None => Ok(slot.value),
            Some(by) => Err(format!(
                "uses {} after {} overwrote its memory: export the network without inplace=True there",
                shown(name),
                shown(by)
            )),
        }
    }

    fn undefined(&self, name: &str) -> String {
        if let Some(what) = self.refused.get(name) {
            return format!("uses {what}, which is not supported");
        }
        match self.unknown.contains(name) {
            true => FOLLOWS.to_owned(),
            false => format!("uses {} before it is defined", shown(name)),
        }
    }

    /// Makes a name known whose meaning is not.
    pub(super) fn give_up(&mut self, name: &str) {
        self.unknown.insert(name.to_owned());
    }

    /// Makes a name known that may not be used, and says what it is.
    pub(super) fn refuse(&mut self, name: &str, what: &'static str) {
        self.refused.insert(name.to_owned(), what);
    }

    pub(super) fn size(&self, argument: &SizeArgument) -> OrFault<Size> {
        match argument {
            SizeArgument::Int(size) => {
                u64::try_from(*size).map(Size::Fixed).map_err(|_| "has a negative size".to_owned())
            }
            SizeArgument::Name(name) => self.sizes.get(name).copied().ok_or_else(|| self.undefined(name)),
        }
    }

    pub(super) fn define_size(&mut self, name: &str, size: Size) -> OrFault<()> {
        match self.sizes.insert(name.to_owned(), size) {
            None => Ok(()),
            Some(_) => Err("defines a name that is taken".to_owned()),
        }
    }

    pub(super) fn define(&mut self, name: &str, value: Value, memory: &ValueMemory<'_>) -> OrFault<ValueId> {
        if self.names.contains_key(name) {
            return Err("defines a name that is taken".to_owned());
        }
        let id = self.values.len();
        let slot_of = |of: &str| self.names.get(of).copied();
        let slot = match memory {
            ValueMemory::Own => self.add_slot(id, None),
            ValueMemory::Shared(of) => self.add_slot(id, slot_of(of).map(|other| self.slots[other].memory)),
            ValueMemory::Overwritten(of) => match slot_of(of) {
                Some(slot) => {
                    self.overwrite(slot, name, id);
                    slot
                }
                None => self.add_slot(id, None),
            },
        };
        self.values.push(value);
        self.names.insert(name.to_owned(), slot);
        Ok(id)
    }

    fn add_slot(&mut self, value: ValueId, shared: Option<usize>) -> usize {
        let memory = shared.unwrap_or(self.memories.len());
        if shared.is_none() {
            self.memories.push(SharedMemory { first: value, slots: Vec::new() });
        }
        self.memories[memory].slots.push(self.slots.len());
        self.slots.push(Slot { value, memory, stale: None });
        self.slots.len() - 1
    }

    fn overwrite(&mut self, slot: usize, by: &str, value: ValueId) {
        let memory = self.slots[slot].memory;
        for other in std::mem::replace(&mut self.memories[memory].slots, vec![slot]) {
            if other != slot {
                self.slots[other].stale = Some(by.to_owned());
            }
        }
        self.slots[slot].value = value;
    }

    /// A new name of a constant that was overwritten. Views of it that are constants changed with it; others may not be
    /// used.
    pub(super) fn rename(&mut self, name: &str, of: &str) -> OrFault<()> {
        let slot = *self.names.get(of).ok_or_else(|| self.undefined(of))?;
        if self.names.insert(name.to_owned(), slot).is_some() {
            return Err("defines a name that is taken".to_owned());
        }
        for &other in &self.memories[self.slots[slot].memory].slots {
            if !self.constants.contains_key(&self.slots[other].value) {
                self.slots[other].stale = Some(name.to_owned());
            }
        }
        Ok(())
    }

    /// The first value that the memory of a name held.
    pub(super) fn origin(&self, name: &str) -> Option<ValueId> {
        Some(self.memories[self.slots[*self.names.get(name)?].memory].first)
    }
}
