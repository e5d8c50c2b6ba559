//! Lists and objects of the JSON documents, none of which may be long: in memory a member takes many times the bytes
//! that it has in the document.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Most members of a list that one argument, shape or result is.
const LONGEST_SHORT: usize = 1 << 13;
/// Most members of a list or an object with something for each node or tensor.
const LONGEST: usize = 100_000;

/// A list of at most `MOST` members.
#[derive(Debug)]
pub(super) struct BoundedList<T, const MOST: usize>(pub(super) Vec<T>);

/// What one argument, shape or result is.
pub(super) type Short<T> = BoundedList<T, LONGEST_SHORT>;

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for BoundedList<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Members<T, MOST> {
            type Value = BoundedList<T, MOST>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = list.next_element()? {
                    if members.len() == MOST {
                        return Err(A::Error::custom(format!("a list has more than {MOST} members")));
                    }
                    members.push(member);
                }
                members.shrink_to_fit();
                Ok(BoundedList(members))
            }
        }
        deserializer.deserialize_seq(Members::<T, MOST>(PhantomData))
    }
}

/// For members of a struct: a list that one argument, shape or result is.
pub(super) fn short<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Short::deserialize(deserializer).map(|list| list.0)
}

/// For members of a struct: a list with something for each node or tensor.
pub(super) fn long<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    BoundedList::<T, LONGEST>::deserialize(deserializer).map(|list| list.0)
}

/// The entries of an object in the order of the file. A key that comes twice, with which others would read something
/// else, is an error.
#[derive(Debug)]
pub(super) struct Entries<T>(pub(super) Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Entries<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut seen = HashSet::new();
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.len() == LONGEST {
                        return Err(A::Error::custom(format!("an object has more than {LONGEST} members")));
                    }
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom("an object has a key twice"));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}
