//! A reader of Python's pickles that can build containers and nothing else.
//!
//! A pickle is a program for a small stack machine. Two of its instructions, in Python, call whatever function the file
//! names. Here they reach [`super::torch::build`], which knows a short list of names and refuses every other one; there
//! is nothing behind a name that could run. Objects live in one list and refer to each other by index, so neither
//! cycles nor depth cost a stack, and everything that is built is proportional to the instructions read.

use std::collections::HashMap;

use super::error::{Error, Result, corrupt, shown};

/// Most instructions of one file: over a hundred times what the largest network with its optimiser takes.
const MOST_INSTRUCTIONS: usize = 2_000_000;
/// Most values that wait on the stack, and most open brackets.
const DEEPEST_STACK: usize = 100_000;
const DEEPEST_MARKS: usize = 1_000;

/// Index of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ref(u32);

/// A Python value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Object(Ref),
    /// Something harmless that nobody asks about.
    Opaque,
}

/// What a [`Value::Object`] is.
#[derive(Debug)]
pub(super) enum Object<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// The name of a function or class.
    Global {
        module: &'a str,
        name: &'a str,
    },
    Storage(super::torch::StorageRef<'a>),
    Tensor(super::torch::TensorView<'a>),
}

/// The stack machine over the pickles of one file.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Vec<Object<'a>>,
    instructions: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        let (stack, marks, memo, heap) = Default::default();
        Self { input, at: 0, stack, marks, memo, heap, instructions: 0 }
    }

    /// Where the next pickle would begin.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Reads one pickle and leaves the place behind it. Objects of earlier pickles stay.
    pub(super) fn load(&mut self) -> Result<Value<'a>> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            self.spend(1)?;
            if self.stack.len() > DEEPEST_STACK || self.marks.len() > DEEPEST_MARKS {
                return Err(Error::Limit("its pickle is nested too deeply".to_owned()));
            }
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Counts instructions, and copies that cost as much.
    pub(super) fn spend(&mut self, instructions: usize) -> Result<()> {
        self.instructions = self.instructions.saturating_add(instructions);
        if self.instructions <= MOST_INSTRUCTIONS {
            return Ok(());
        }
        Err(Error::Limit(format!("its pickle takes more than {MOST_INSTRUCTIONS} instructions")))
    }

    /// The storages that were named so far.
    pub(super) fn storages(&self) -> impl Iterator<Item = &super::torch::StorageRef<'a>> {
        self.heap.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// What a value refers to.
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        let Value::Object(Ref(index)) = value else { return None };
        self.heap.get(index as usize)
    }

    /// The members of a tuple, or of a list.
    pub(super) fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value)? {
            Object::Tuple(members) | Object::List(members) => Some(members),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub(super) fn entries(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value)? {
            Object::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// Module and name, where the value is one.
    pub(super) fn global(&self, value: Value<'a>) -> Option<(&'a str, &'a str)> {
        match self.object(value)? {
            Object::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    pub(super) fn create(&mut self, object: Object<'a>) -> Value<'a> {
        // There are fewer objects than instructions.
        let index = u32::try_from(self.heap.len()).unwrap_or(u32::MAX);
        self.heap.push(object);
        Value::Object(Ref(index))
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            0x80 => return self.protocol(),
            0x95 => return self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'0' => return self.pop().map(drop),
            b'1' => return self.since_mark().map(drop),
            b'2' => self.top()?,
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            0x8a => self.long()?,
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            b'X' => self.text::<4>()?,
            0x8c => self.text::<1>()?,
            0x8d => self.text::<8>()?,
            // Strings of Python 2.
            b'T' => self.old_text::<4>()?,
            b'U' => self.old_text::<1>()?,
            b'B' => Value::Bytes(self.counted::<4>()?),
            b'C' => Value::Bytes(self.counted::<1>()?),
            0x8e => Value::Bytes(self.counted::<8>()?),
            b')' => self.create(Object::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let members = self.since_mark()?;
                self.create(Object::Tuple(members))
            }
            b']' => self.create(Object::List(Vec::new())),
            b'}' => self.create(Object::Dict(Vec::new())),
            0x8f => Value::Opaque,
            0x91 => {
                self.since_mark()?;
                Value::Opaque
            }
            b'a' => {
                let member = self.pop()?;
                return self.append(vec![member]);
            }
            b'e' | 0x90 => {
                let members = self.since_mark()?;
                return self.append(members);
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                return self.set(&[key, value]);
            }
            b'u' => {
                let members = self.since_mark()?;
                return self.set(&members);
            }
            b'q' => return self.byte().and_then(|index| self.remember(u32::from(index))),
            b'r' => return self.array().and_then(|index| self.remember(u32::from_le_bytes(index))),
            0x94 => return self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX)),
            b'h' => self.byte().and_then(|index| self.recall(u32::from(index)))?,
            b'j' => self.array().and_then(|index| self.recall(u32::from_le_bytes(index)))?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.create(Object::Global { module, name })
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (module, name) else {
                    return corrupt("its pickle names a class by something that is no text");
                };
                self.create(Object::Global { module, name })
            }
            b'Q' => {
                let id = self.pop()?;
                super::torch::storage(self, id)?
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.build(function, arguments)?
            }
            b'b' => return self.set_state(),
            _ => return self.refuse_opcode(opcode),
        };
        self.stack.push(value);
        Ok(())
    }

    fn protocol(&mut self) -> Result<()> {
        match self.byte()? {
            2..=5 => Ok(()),
            other => corrupt(format!("its pickle is of protocol {other}, which torch.save does not write")),
        }
    }

    fn build(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let Some((module, name)) = self.global(function) else {
            return corrupt("its pickle calls something that is no function");
        };
        let Some(Object::Tuple(arguments)) = self.object(arguments) else {
            return corrupt(format!("its pickle calls {} without arguments", shown(name)));
        };
        // Functions that are known take few arguments; of what is refused, none is looked at.
        let arguments: Vec<_> = arguments.iter().copied().take(16).collect();
        super::torch::build(self, module, name, &arguments)
    }

    /// Attributes of an object: none that are kept. What is no object is something that the file should not touch.
    fn set_state(&mut self) -> Result<()> {
        self.pop()?;
        let target = self.top()?;
        match (target, self.object(target)) {
            (Value::Opaque, _) | (_, Some(Object::Dict(_))) => Ok(()),
            (_, Some(Object::Global { module, name })) => Err(refused(module, &format!("{name}.__setstate__"))),
            _ => corrupt("its pickle gives attributes to something that has none"),
        }
    }

    /// Instructions that call by other ways are refused with the name that they call.
    fn refuse_opcode(&mut self, opcode: u8) -> Result<()> {
        let called = match opcode {
            b'i' => Some((self.line()?, self.line()?)),
            b'o' => self.marks.last().and_then(|&mark| self.stack.get(mark)).and_then(|&value| self.global(value)),
            0x92 => self.stack.len().checked_sub(3).and_then(|at| self.global(self.stack[at])),
            0x82..=0x84 => Some(("copyreg", "_extension_registry")),
            _ => None,
        };
        match called {
            Some((module, name)) => Err(refused(module, name)),
            None => corrupt(format!("its pickle has instruction {opcode:#04x}, which torch.save does not write")),
        }
    }

    fn append(&mut self, members: Vec<Value<'a>>) -> Result<()> {
        match self.top()? {
            Value::Opaque => Ok(()),
            Value::Object(Ref(index)) if let Some(Object::List(list)) = self.heap.get_mut(index as usize) => {
                list.extend(members);
                Ok(())
            }
            _ => corrupt("its pickle appends to something that is no list"),
        }
    }

    fn set(&mut self, members: &[Value<'a>]) -> Result<()> {
        let (pairs, rest) = members.as_chunks::<2>();
        if !rest.is_empty() {
            return corrupt("its pickle has a key without a value");
        }
        match self.top()? {
            Value::Opaque => Ok(()),
            Value::Object(Ref(index)) if let Some(Object::Dict(entries)) = self.heap.get_mut(index as usize) => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => corrupt("its pickle sets a key of something that is no dictionary"),
        }
    }

    fn tuple(&mut self, length: usize) -> Result<Value<'a>> {
        let start = self.stack.len().checked_sub(length).filter(|&start| self.floor() <= start);
        let Some(start) = start else { return corrupt(UNDERFLOW) };
        let members = self.stack.drain(start..).collect();
        Ok(self.create(Object::Tuple(members)))
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&self, index: u32) -> Result<Value<'a>> {
        let known = self.memo.get(&index).copied();
        known.map_or_else(|| corrupt(format!("its pickle refers to value {index}, which it does not have")), Ok)
    }

    /// Values below the last mark are out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>> {
        let value = self.stack.get(self.floor()..).and_then(<[_]>::last).copied();
        value.map_or_else(|| corrupt(UNDERFLOW), Ok)
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let Some(mark) = self.marks.pop() else { return corrupt(UNDERFLOW) };
        Ok(self.stack.drain(mark.min(self.stack.len())..).collect())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length);
        let Some(bytes) = end.and_then(|end| self.input.get(self.at..end)) else {
            return Err(Error::Truncated("its pickle ends within an instruction".to_owned()));
        };
        self.at += length;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Bytes behind their number, which is of N bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8]> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(self.take(N)?);
        self.take(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    fn text<const N: usize>(&mut self) -> Result<Value<'a>> {
        match std::str::from_utf8(self.counted::<N>()?) {
            Ok(text) => Ok(Value::Str(text)),
            // A lone surrogate, perhaps; no key of a tensor.
            Err(_) => Ok(Value::Opaque),
        }
    }

    fn old_text<const N: usize>(&mut self) -> Result<Value<'a>> {
        let bytes = self.counted::<N>()?;
        Ok(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str))
    }

    fn long(&mut self) -> Result<Value<'a>> {
        let bytes = self.counted::<1>()?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes));
        }
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(Error::Truncated("its pickle ends within a name".to_owned()));
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| corrupt("its pickle has a name that is no text"))
    }
}

const UNDERFLOW: &str = "its pickle takes more values than it made";

/// The refusal of something that the file wants to be run.
pub(super) fn refused(module: &str, name: &str) -> Error {
    Error::Refused { name: format!("{}.{}", shown(module), shown(name)) }
}
