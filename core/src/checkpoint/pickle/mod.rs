//! A reader of Python's pickles that builds containers and runs nothing.
//!
//! A pickle is a program for a small stack machine. In Python, two of its instructions call whatever function the file
//! names. Here they call [`torch::build`], which knows a short list of names; what any other name would have
//! made becomes an [`HeapObject::Foreign`], of which only the name is known. No name leads to code of the file's
//! choice. Objects are stored in one list and refer to each other by index, so cycles and deep nesting need no
//! recursion. The memory of all objects is proportional to the number of instructions.

mod input;
mod opcode;
mod tensors;
mod torch;
mod value;

use std::collections::HashMap;

use self::input::PickleInput;
pub(super) use self::tensors::{StorageKind, StorageRef, TensorView};
use self::value::Ref;
pub(super) use self::value::{HeapObject, PickleValue};
use super::error::{Error, Result, corrupt, shown};

/// Most instructions per file: over a hundred times as many as the largest network with its optimiser takes.
const MOST_INSTRUCTIONS: usize = 2_000_000;
/// Most values on the stack.
const DEEPEST_STACK: usize = 100_000;
/// Most open marks.
const DEEPEST_MARKS: usize = 1_000;

/// The stack machine, for all pickles of one file.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    input: PickleInput<'a>,
    stack: Vec<PickleValue<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, PickleValue<'a>>,
    heap: Vec<HeapObject<'a>>,
    instructions: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (stack, marks, memo, heap) = Default::default();
        Self { input: PickleInput::new(bytes), stack, marks, memo, heap, instructions: 0 }
    }

    /// Offset of the next pickle.
    pub(super) fn position(&self) -> usize {
        self.input.position
    }

    /// Reads one pickle, and stops after it. Objects of earlier pickles remain.
    pub(super) fn load(&mut self) -> Result<PickleValue<'a>> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            self.spend(1)?;
            if self.stack.len() > DEEPEST_STACK || self.marks.len() > DEEPEST_MARKS {
                return Err(Error::Limit("its pickle is nested too deeply".to_owned()));
            }
            let opcode = self.input.byte()?;
            if opcode == opcode::STOP {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Counts instructions, and copies that cost as much as instructions.
    pub(super) fn spend(&mut self, instructions: usize) -> Result<()> {
        self.instructions = self.instructions.saturating_add(instructions);
        if self.instructions <= MOST_INSTRUCTIONS {
            return Ok(());
        }
        Err(Error::Limit(format!("its pickle takes more than {MOST_INSTRUCTIONS} instructions")))
    }

    /// All storages read so far.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef<'a>> {
        self.heap.iter().filter_map(|object| match object {
            HeapObject::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(super) fn object(&self, value: PickleValue<'a>) -> Option<&HeapObject<'a>> {
        let PickleValue::Object(Ref(index)) = value else { return None };
        self.heap.get(index as usize)
    }

    /// Members of a tuple or list.
    pub(super) fn sequence(&self, value: PickleValue<'a>) -> Option<&[PickleValue<'a>]> {
        match self.object(value)? {
            HeapObject::Tuple(members) | HeapObject::List(members) => Some(members),
            _ => None,
        }
    }

    /// Entries of a dictionary, which may be of an unknown class.
    pub(super) fn entries(&self, value: PickleValue<'a>) -> Option<&[(PickleValue<'a>, PickleValue<'a>)]> {
        match self.object(value)? {
            HeapObject::Dict(entries) => Some(entries),
            HeapObject::Foreign { entries, .. } if !entries.is_empty() => Some(entries),
            _ => None,
        }
    }

    /// Names of all unknown functions and classes that the file wanted to call.
    pub(super) fn foreign(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.heap.iter().filter_map(|object| match object {
            HeapObject::Foreign { module, name, .. } => Some((*module, *name)),
            _ => None,
        })
    }

    /// The name of the unknown function or class that would have made the value.
    pub(super) fn maker(&self, value: PickleValue<'a>) -> Option<(&'a str, &'a str)> {
        match self.object(value)? {
            HeapObject::Foreign { module, name, .. } => Some((module, name)),
            _ => None,
        }
    }

    pub(super) fn create_foreign(&mut self, module: &'a str, name: &'a str) -> PickleValue<'a> {
        self.create(HeapObject::Foreign { module, name, entries: Vec::new() })
    }

    /// Module and name of a function or class.
    pub(super) fn global(&self, value: PickleValue<'a>) -> Option<(&'a str, &'a str)> {
        match self.object(value)? {
            HeapObject::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    pub(super) fn create(&mut self, object: HeapObject<'a>) -> PickleValue<'a> {
        // There are fewer objects than instructions, so the index fits.
        let index = u32::try_from(self.heap.len()).unwrap_or(u32::MAX);
        self.heap.push(object);
        PickleValue::Object(Ref(index))
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            opcode::PROTO => return self.protocol(),
            opcode::FRAME => return self.input.take(8).map(drop),
            opcode::MARK => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            opcode::POP => return self.pop().map(drop),
            opcode::POP_MARK => return self.since_mark().map(drop),
            opcode::DUP => self.top()?,
            opcode::NONE => PickleValue::None,
            opcode::NEWTRUE => PickleValue::Bool(true),
            opcode::NEWFALSE => PickleValue::Bool(false),
            opcode::BININT => PickleValue::Int(i64::from(i32::from_le_bytes(self.input.array()?))),
            opcode::BININT1 => PickleValue::Int(i64::from(self.input.byte()?)),
            opcode::BININT2 => PickleValue::Int(i64::from(u16::from_le_bytes(self.input.array()?))),
            opcode::LONG1 => self.input.long()?,
            opcode::BINFLOAT => PickleValue::Float(f64::from_be_bytes(self.input.array()?)),
            opcode::BINUNICODE => self.input.text::<4>()?,
            opcode::SHORT_BINUNICODE => self.input.text::<1>()?,
            opcode::BINUNICODE8 => self.input.text::<8>()?,
            opcode::BINSTRING => self.input.byte_string::<4>()?,
            opcode::SHORT_BINSTRING => self.input.byte_string::<1>()?,
            opcode::BINBYTES => PickleValue::Bytes(self.input.counted::<4>()?),
            opcode::SHORT_BINBYTES => PickleValue::Bytes(self.input.counted::<1>()?),
            opcode::BINBYTES8 | opcode::BYTEARRAY8 => PickleValue::Bytes(self.input.counted::<8>()?),
            opcode::EMPTY_TUPLE => self.create(HeapObject::Tuple(Vec::new())),
            opcode::TUPLE1 => self.tuple(1)?,
            opcode::TUPLE2 => self.tuple(2)?,
            opcode::TUPLE3 => self.tuple(3)?,
            opcode::TUPLE => {
                let members = self.since_mark()?;
                self.create(HeapObject::Tuple(members))
            }
            opcode::EMPTY_LIST => self.create(HeapObject::List(Vec::new())),
            opcode::EMPTY_DICT => self.create(HeapObject::Dict(Vec::new())),
            opcode::EMPTY_SET => PickleValue::Opaque,
            opcode::FROZENSET => {
                self.since_mark()?;
                PickleValue::Opaque
            }
            opcode::APPEND => {
                let member = self.pop()?;
                return self.append(vec![member]);
            }
            opcode::APPENDS | opcode::ADDITEMS => {
                let members = self.since_mark()?;
                return self.append(members);
            }
            opcode::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                return self.set(&[key, value]);
            }
            opcode::SETITEMS => {
                let members = self.since_mark()?;
                return self.set(&members);
            }
            opcode::BINPUT => return self.input.byte().and_then(|index| self.remember(u32::from(index))),
            opcode::LONG_BINPUT => {
                return self.input.array().and_then(|index| self.remember(u32::from_le_bytes(index)));
            }
            opcode::MEMOIZE => return self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX)),
            opcode::BINGET => self.input.byte().and_then(|index| self.recall(u32::from(index)))?,
            opcode::LONG_BINGET => self.input.array().and_then(|index| self.recall(u32::from_le_bytes(index)))?,
            opcode::GLOBAL => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.create(HeapObject::Global { module, name })
            }
            opcode::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (PickleValue::Str(module), PickleValue::Str(name)) = (module, name) else {
                    return corrupt("its pickle names a class by something that is not text");
                };
                self.create(HeapObject::Global { module, name })
            }
            opcode::BINPERSID => {
                let id = self.pop()?;
                torch::persistent(self, id)?
            }
            opcode::REDUCE | opcode::NEWOBJ => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.build(function, arguments)?
            }
            opcode::NEWOBJ_EX => {
                let (_, arguments) = (self.pop()?, self.pop()?);
                let class = self.pop()?;
                self.build(class, arguments)?
            }
            opcode::INST => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.since_mark()?;
                self.create_foreign(module, name)
            }
            opcode::OBJ => self.instance()?,
            opcode::BUILD => return self.set_state(),
            _ => return refuse_opcode(opcode),
        };
        self.stack.push(value);
        Ok(())
    }

    fn protocol(&mut self) -> Result<()> {
        match self.input.byte()? {
            2..=5 => Ok(()),
            other => corrupt(format!("its pickle has protocol {other}, which torch.save does not write")),
        }
    }

    fn build(&mut self, function: PickleValue<'a>, arguments: PickleValue<'a>) -> Result<PickleValue<'a>> {
        // What an unknown function made may be called in turn.
        if let Some((module, name)) = self.maker(function) {
            return Ok(self.create_foreign(module, name));
        }
        if function == PickleValue::Opaque {
            return Ok(PickleValue::Opaque);
        }
        let Some((module, name)) = self.global(function) else {
            return corrupt("its pickle calls something that is not a function");
        };
        let Some(HeapObject::Tuple(arguments)) = self.object(arguments) else {
            return corrupt(format!("its pickle calls {} without arguments", shown(name)));
        };
        // Known functions take few arguments, and unknown ones need none.
        let arguments: Vec<_> = arguments.iter().copied().take(16).collect();
        torch::build(self, module, name, &arguments)
    }

    /// An instance of the class that comes first after the mark.
    fn instance(&mut self) -> Result<PickleValue<'a>> {
        let members = self.since_mark()?;
        match members.first().and_then(|&class| self.global(class)) {
            Some((module, name)) => Ok(self.create_foreign(module, name)),
            None => corrupt("its pickle makes an instance of something that is not a class"),
        }
    }

    /// Attributes are ignored: nothing that is read has any. Those of a function or class would change what it does.
    fn set_state(&mut self) -> Result<()> {
        self.pop()?;
        let target = self.top()?;
        match (target, self.object(target)) {
            (PickleValue::Opaque, _)
            | (
                _,
                Some(
                    HeapObject::Dict(_)
                    | HeapObject::Tensor(_)
                    | HeapObject::OtherTensor(_)
                    | HeapObject::Foreign { .. },
                ),
            ) => Ok(()),
            (_, Some(HeapObject::Global { module, name })) => Err(refused(module, &format!("{name}.__setstate__"))),
            _ => corrupt("its pickle sets attributes of something that has none"),
        }
    }

    fn append(&mut self, members: Vec<PickleValue<'a>>) -> Result<()> {
        let target = self.top()?;
        if target == PickleValue::Opaque || self.maker(target).is_some() {
            return Ok(());
        }
        match target {
            PickleValue::Object(Ref(index)) if let Some(HeapObject::List(list)) = self.heap.get_mut(index as usize) => {
                list.extend(members);
                Ok(())
            }
            _ => corrupt("its pickle appends to something that is not a list"),
        }
    }

    fn set(&mut self, members: &[PickleValue<'a>]) -> Result<()> {
        let (pairs, rest) = members.as_chunks::<2>();
        if !rest.is_empty() {
            return corrupt("its pickle has a key without a value");
        }
        match self.top()? {
            PickleValue::Opaque => Ok(()),
            PickleValue::Object(Ref(index))
                if let Some(HeapObject::Dict(entries) | HeapObject::Foreign { entries, .. }) =
                    self.heap.get_mut(index as usize) =>
            {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => corrupt("its pickle sets a key of something that is not a dictionary"),
        }
    }

    fn tuple(&mut self, length: usize) -> Result<PickleValue<'a>> {
        let start = self.stack.len().checked_sub(length).filter(|&start| self.floor() <= start);
        let Some(start) = start else { return corrupt(UNDERFLOW) };
        let members = self.stack.drain(start..).collect();
        Ok(self.create(HeapObject::Tuple(members)))
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&self, index: u32) -> Result<PickleValue<'a>> {
        let known = self.memo.get(&index).copied();
        known.map_or_else(|| corrupt(format!("its pickle refers to value {index}, which does not exist")), Ok)
    }

    /// Values below the last mark cannot be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<PickleValue<'a>> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Result<PickleValue<'a>> {
        let value = self.stack.get(self.floor()..).and_then(<[_]>::last).copied();
        value.map_or_else(|| corrupt(UNDERFLOW), Ok)
    }

    fn since_mark(&mut self) -> Result<Vec<PickleValue<'a>>> {
        let Some(mark) = self.marks.pop() else { return corrupt(UNDERFLOW) };
        Ok(self.stack.drain(mark.min(self.stack.len())..).collect())
    }
}

const UNDERFLOW: &str = "its pickle pops more values than it pushed";

/// Instructions that are not known.
fn refuse_opcode(opcode: u8) -> Result<()> {
    match opcode {
        // These call what Python's registry of extensions has.
        opcode::EXT1..=opcode::EXT4 => Err(refused("copyreg", "_extension_registry")),
        _ => corrupt(format!("its pickle contains instruction {opcode:#04x}, which torch.save does not write")),
    }
}

/// The error for something that the file wants to run.
pub(super) fn refused(module: &str, name: &str) -> Error {
    Error::Refused { name: format!("{}.{}", shown(module), shown(name)) }
}
