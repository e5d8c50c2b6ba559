//! Reads the few kinds of Python objects that CIFAR's files hold. Nothing is run: a function that is not known here is
//! an error. Arrays stay in the file.

use std::collections::HashMap;

use crate::byte_source::ByteSource;

/// Most instructions of a file: several times as many as CIFAR-100's training split takes.
const MOST_INSTRUCTIONS: usize = 2_000_000;
/// Longer byte strings stay in the file.
const LARGEST_TEXT: u64 = 1 << 10;
/// Bytes that are read at once.
const CHUNK: u64 = 1 << 16;

/// A byte string in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub start: u64,
    pub length: u64,
}

/// A Python object.
#[derive(Debug, Clone)]
pub(super) enum PickleObject {
    None,
    Boolean(bool),
    Integer(i64),
    /// Text, or bytes taken as Latin-1.
    Text(String),
    Blob(Blob),
    Sequence(Vec<Self>),
    Dictionary(Vec<(Self, Self)>),
    /// A function or class.
    Global(String),
    /// NumPy's array; its bytes are there once its state is set.
    Array(Option<Blob>),
    /// NumPy's type of bytes.
    Bytes,
}

impl PickleObject {
    /// The member of a dictionary.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dictionary(members) = self else { return None };
        members.iter().find(|(name, _)| matches!(name, Self::Text(name) if name == key)).map(|(_, value)| value)
    }

    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        self.sequence()?
            .iter()
            .map(|value| if let Self::Integer(value) = value { Some(*value) } else { None })
            .collect()
    }

    pub(super) fn texts(&self) -> Option<Vec<String>> {
        self.sequence()?
            .iter()
            .map(|value| if let Self::Text(text) = value { Some(text.clone()) } else { None })
            .collect()
    }

    /// The content of an array.
    pub(super) fn pixels(&self) -> Option<Blob> {
        if let Self::Array(blob) = self { *blob } else { None }
    }

    fn sequence(&self) -> Option<&[Self]> {
        if let Self::Sequence(members) = self { Some(members) } else { None }
    }
}

/// Reads the pickle at the beginning of a file. The error is a phrase.
pub(super) fn load(source: &ByteSource) -> Result<PickleObject, String> {
    let mut machine =
        Stack { input: PickleBytes::new(source), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    for _ in 0..MOST_INSTRUCTIONS {
        let opcode = machine.input.byte()?;
        if opcode == b'.' {
            return machine.pop();
        }
        machine.step(opcode)?;
    }
    Err(format!("its pickle takes more than {MOST_INSTRUCTIONS} instructions"))
}

struct Stack<'a> {
    input: PickleBytes<'a>,
    stack: Vec<PickleObject>,
    marks: Vec<usize>,
    memo: HashMap<u32, PickleObject>,
}

impl Stack<'_> {
    fn step(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            0x80 => return self.input.byte().map(drop),
            0x95 => return self.input.array::<8>().map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'N' => PickleObject::None,
            0x88 => PickleObject::Boolean(true),
            0x89 => PickleObject::Boolean(false),
            b'J' => PickleObject::Integer(i32::from_le_bytes(self.input.array()?).into()),
            b'K' => PickleObject::Integer(self.input.byte()?.into()),
            b'M' => PickleObject::Integer(u16::from_le_bytes(self.input.array()?).into()),
            b'U' | 0x8c | b'C' => self.input.text::<1>()?,
            b'T' | b'X' | b'B' => self.input.text::<4>()?,
            0x8d | 0x8e => self.input.text::<8>()?,
            b']' | b')' => PickleObject::Sequence(Vec::new()),
            b'}' => PickleObject::Dictionary(Vec::new()),
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or("its pickle is damaged")?;
                PickleObject::Sequence(self.stack.split_off(at))
            }
            b't' => PickleObject::Sequence(self.since_mark()?),
            b'a' | b'e' => {
                let members = if opcode == b'a' { vec![self.pop()?] } else { self.since_mark()? };
                return self.append(members);
            }
            b's' | b'u' => {
                let members = if opcode == b's' { self.pop_two()? } else { self.since_mark()? };
                return self.set(members);
            }
            b'q' => return self.input.byte().and_then(|index| self.remember(index.into())),
            b'r' => return self.input.array().and_then(|index| self.remember(u32::from_le_bytes(index))),
            0x94 => return self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX)),
            b'h' => self.input.byte().and_then(|index| self.recall(index.into()))?,
            b'j' => self.input.array().and_then(|index| self.recall(u32::from_le_bytes(index)))?,
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                PickleObject::Global(format!("{module}.{name}"))
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (PickleObject::Text(name), PickleObject::Text(module)) => {
                    PickleObject::Global(format!("{module}.{name}"))
                }
                _ => return Err("its pickle names a class by something that is not text".to_owned()),
            },
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                call(&function, &arguments)?
            }
            b'b' => return self.set_state(),
            other => return Err(format!("its pickle has the instruction {other:#04x}, which is not needed")),
        };
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<PickleObject, String> {
        self.stack.pop().ok_or_else(|| "its pickle is damaged".to_owned())
    }

    /// The last two values, in the order in which they were pushed.
    fn pop_two(&mut self) -> Result<Vec<PickleObject>, String> {
        let (second, first) = (self.pop()?, self.pop()?);
        Ok(vec![first, second])
    }

    fn since_mark(&mut self) -> Result<Vec<PickleObject>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("its pickle is damaged")?))
    }

    fn append(&mut self, members: Vec<PickleObject>) -> Result<(), String> {
        let Some(PickleObject::Sequence(list)) = self.stack.last_mut() else {
            return Err("its pickle appends to something that is not a list".to_owned());
        };
        list.extend(members);
        Ok(())
    }

    fn set(&mut self, members: Vec<PickleObject>) -> Result<(), String> {
        let Some(PickleObject::Dictionary(dictionary)) = self.stack.last_mut() else {
            return Err("its pickle sets a key of something that is not a dictionary".to_owned());
        };
        let mut members = members.into_iter();
        while let (Some(key), Some(value)) = (members.next(), members.next()) {
            dictionary.push((key, value));
        }
        Ok(())
    }

    /// Containers are remembered as they are now: empty. Nothing in these files refers to them again.
    fn remember(&mut self, index: u32) -> Result<(), String> {
        let value = match self.stack.last().ok_or("its pickle is damaged")? {
            PickleObject::Sequence(_) => PickleObject::Sequence(Vec::new()),
            PickleObject::Dictionary(_) => PickleObject::Dictionary(Vec::new()),
            other => other.clone(),
        };
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&self, index: u32) -> Result<PickleObject, String> {
        self.memo.get(&index).cloned().ok_or_else(|| "its pickle is damaged".to_owned())
    }

    /// The state of an array is its version, shape, type, order and bytes.
    fn set_state(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        match (self.stack.last_mut(), state.sequence()) {
            (Some(PickleObject::Bytes), _) => Ok(()),
            (
                Some(PickleObject::Array(content)),
                Some(
                    [
                        _,
                        PickleObject::Sequence(_),
                        PickleObject::Bytes,
                        PickleObject::Boolean(false),
                        PickleObject::Blob(blob),
                    ],
                ),
            ) => {
                *content = Some(*blob);
                Ok(())
            }
            (Some(PickleObject::Array(_)), _) => Err("its array is not one of bytes in rows".to_owned()),
            _ => Err("its pickle sets the state of something that has none".to_owned()),
        }
    }
}

/// The result of a known function.
fn call(function: &PickleObject, arguments: &PickleObject) -> Result<PickleObject, String> {
    let PickleObject::Global(name) = function else {
        return Err("its pickle calls something that is no function".to_owned());
    };
    match (name.as_str(), arguments.sequence()) {
        ("numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct", _) => {
            Ok(PickleObject::Array(None))
        }
        ("numpy.dtype", Some([PickleObject::Text(code), ..])) if code == "u1" => Ok(PickleObject::Bytes),
        ("numpy.dtype", Some([PickleObject::Text(code), ..])) => Err(format!("its array has the type {code}, not u1")),
        _ => Err(format!("its pickle calls {}, which is not needed", name.chars().take(100).collect::<String>())),
    }
}

/// The bytes of a file from front to back.
struct PickleBytes<'a> {
    source: &'a ByteSource,
    position: u64,
    /// What was read ahead, from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> PickleBytes<'a> {
    fn new(source: &'a ByteSource) -> Self {
        Self { source, position: 0, buffer: Vec::new(), start: 0 }
    }

    /// The next bytes, of which there are few.
    fn take(&mut self, length: u64) -> Result<&[u8], String> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.source.len());
        let end = end.ok_or("it is truncated")?;
        if self.position < self.start || end > self.start + self.buffer.len() as u64 {
            let ahead = length.max(CHUNK).min(self.source.len() - self.position);
            self.buffer = self.source.read(self.position, ahead).map_err(|error| error.to_string())?;
            self.start = self.position;
        }
        let at = (self.position - self.start) as usize;
        self.position = end;
        Ok(&self.buffer[at..at + length as usize])
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// A string preceded by its length, which takes N bytes.
    fn text<const N: usize>(&mut self) -> Result<PickleObject, String> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(self.take(N as u64)?);
        let length = u64::from_le_bytes(length);
        if length > LARGEST_TEXT {
            let start = self.position;
            let end = start.checked_add(length).filter(|end| *end <= self.source.len()).ok_or("it is truncated")?;
            self.position = end;
            return Ok(PickleObject::Blob(Blob { start, length }));
        }
        Ok(PickleObject::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                _ if line.len() as u64 > LARGEST_TEXT => return Err("its pickle is damaged".to_owned()),
                byte => line.push(byte),
            }
        }
    }
}
