//! What the names of a program stand for, node by node.
//!
//! PyTorch's operators may overwrite a tensor, and a tensor may be a view of another. A network is read as if nothing
//! were overwritten: whoever names an overwritten tensor gets the result. Where that would not compute the same, because
//! the memory is used under another view, reading it fails.

use std::collections::{HashMap, HashSet};

use super::arguments::Outcome;
use super::graph::{Value, ValueId};
use super::schema::SizeArgument;
use super::size::Size;
use crate::checkpoint::error::shown;

#[derive(Debug, Default)]
pub(super) struct Scope {
    values: Vec<Value>,
    /// Tensors in memory.
    slots: Vec<Slot>,
    /// The slot of each name.
    names: HashMap<String, usize>,
    memories: Vec<SharedMemory>,
    sizes: HashMap<String, Size>,
    /// Names that have no meaning because of a fault that is already known.
    unknown: HashSet<String>,
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
    /// Those that can still be used.
    slots: Vec<usize>,
}

/// Whose memory a new value has.
pub(super) enum Memory<'a> {
    Own,
    /// Shared with that of a name.
    Shared(&'a str),
    /// That of a name, which is overwritten.
    Overwritten(&'a str),
}

impl Scope {
    pub(super) fn value(&self, id: ValueId) -> &Value {
        &self.values[id]
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }

    pub(super) fn resolve(&self, name: &str) -> Outcome<ValueId> {
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
        match self.unknown.contains(name) {
            true => FOLLOWS.to_owned(),
            false => format!("uses {} before it is defined", shown(name)),
        }
    }

    /// Makes a name known whose meaning is not.
    pub(super) fn give_up(&mut self, name: &str) {
        self.unknown.insert(name.to_owned());
    }

    pub(super) fn size(&self, argument: &SizeArgument) -> Outcome<Size> {
        match argument {
            SizeArgument::Int(size) => {
                u64::try_from(*size).map(Size::Fixed).map_err(|_| "has a negative size".to_owned())
            }
            SizeArgument::Name(name) => self.sizes.get(name).copied().ok_or_else(|| self.undefined(name)),
        }
    }

    pub(super) fn define_size(&mut self, name: &str, size: Size) -> Outcome<()> {
        match self.sizes.insert(name.to_owned(), size) {
            None => Ok(()),
            Some(_) => Err("defines a name that is taken".to_owned()),
        }
    }

    pub(super) fn define(&mut self, name: &str, value: Value, memory: &Memory<'_>) -> Outcome<ValueId> {
        if self.names.contains_key(name) {
            return Err("defines a name that is taken".to_owned());
        }
        let id = self.values.len();
        let slot_of = |of: &str| self.names.get(of).copied();
        let slot = match memory {
            Memory::Own => self.add_slot(id, None),
            Memory::Shared(of) => self.add_slot(id, slot_of(of).map(|other| self.slots[other].memory)),
            Memory::Overwritten(of) => match slot_of(of) {
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

    /// The first value that the memory of a name held.
    pub(super) fn origin(&self, name: &str) -> Option<ValueId> {
        Some(self.memories[self.slots[*self.names.get(name)?].memory].first)
    }
}
