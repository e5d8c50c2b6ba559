//! The JSON documents of an exported network, as far as they matter. Of the rest, stack traces and paths of the machine
//! that exported it among them, nothing is kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::lists::{Entries, Short, long, short};

/// The version alone, which decides whether the rest can be read.
#[derive(Debug, Deserialize)]
pub(super) struct Versioned {
    pub(super) schema_version: SchemaVersion,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct SchemaVersion {
    pub(super) major: u64,
    pub(super) minor: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct ProgramRecord {
    pub(super) graph_module: GraphModule,
    #[serde(default)]
    pub(super) range_constraints: Entries<Bounds>,
    pub(super) torch_version: Option<String>,
}

/// The values that a symbol may have.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Bounds {
    pub(super) min_val: Option<i64>,
    pub(super) max_val: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphModule {
    pub(super) graph: GraphRecord,
    pub(super) signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphRecord {
    #[serde(deserialize_with = "long")]
    pub(super) inputs: Vec<Argument>,
    #[serde(deserialize_with = "long")]
    pub(super) outputs: Vec<Argument>,
    #[serde(deserialize_with = "long")]
    pub(super) nodes: Vec<NodeRecord>,
    pub(super) tensor_values: Entries<TensorMeta>,
    #[serde(default)]
    pub(super) sym_int_values: Entries<SizeMeta>,
    #[serde(default)]
    pub(super) custom_obj_values: Entries<IgnoredAny>,
}

/// A number, or the name of one that JSON does not have.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrName;
        impl Visitor<'_> for OrName {
            type Value = Number;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, Infinity, -Infinity or NaN")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Number, E> {
                match name {
                    "Infinity" => Ok(Number(f64::INFINITY)),
                    "-Infinity" => Ok(Number(f64::NEG_INFINITY)),
                    "NaN" => Ok(Number(f64::NAN)),
                    _ => Err(E::custom("a text that is no number")),
                }
            }
        }
        deserializer.deserialize_any(OrName)
    }
}

#[derive(Debug, Deserialize)]
struct GraphArgument {
    name: String,
    graph: GraphRecord,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) target: String,
    #[serde(deserialize_with = "long")]
    pub(super) inputs: Vec<NamedArgument>,
    #[serde(deserialize_with = "short")]
    pub(super) outputs: Vec<Argument>,
    /// Whether it was in a region in which autocast is disabled.
    #[serde(skip)]
    pub(super) full_precision: bool,
}

impl NodeRecord {
    /// The name of its first result, which is PyTorch's name of the node.
    pub(super) fn name(&self) -> &str {
        let name = self.outputs.iter().find_map(|output| match output {
            Argument::Tensor(name) | Argument::SymInt(SizeArgument::Name(name)) => Some(name),
            Argument::Tensors(names) => names.first(),
            _ => None,
        });
        name.unwrap_or(&self.target)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedArgument {
    pub(super) name: String,
    pub(super) arg: Argument,
}

#[derive(Debug, Deserialize)]
pub(super) struct Signature {
    #[serde(deserialize_with = "long")]
    pub(super) input_specs: Vec<InputSpec>,
    #[serde(deserialize_with = "long")]
    pub(super) output_specs: Vec<OutputSpec>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TensorMeta {
    pub(super) dtype: u64,
    #[serde(deserialize_with = "short")]
    pub(super) sizes: Vec<SizeMeta>,
    #[serde(deserialize_with = "short")]
    pub(super) strides: Vec<SizeMeta>,
    pub(super) storage_offset: SizeMeta,
    pub(super) layout: u64,
    /// Of a parameter: false if its owner has frozen it.
    #[serde(default)]
    pub(super) requires_grad: Option<bool>,
}

/// A size of a recorded shape.
#[derive(Debug, Clone, Deserialize)]
pub(super) enum SizeMeta {
    #[serde(rename = "as_int")]
    Int(i64),
    #[serde(rename = "as_expr")]
    Expression(Expression),
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Expression {
    pub(super) expr_str: String,
}

/// A size that a node takes.
#[derive(Debug, Clone, Deserialize)]
pub(super) enum SizeArgument {
    #[serde(rename = "as_int")]
    Int(i64),
    #[serde(rename = "as_name")]
    Name(String),
}

#[derive(Debug, Deserialize)]
pub(super) struct TensorName {
    pub(super) name: String,
}

/// The tensors of a state dict, or the constants, and where their bytes are.
#[derive(Debug, Deserialize)]
pub(super) struct Payloads {
    pub(super) config: Entries<Payload>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    pub(super) path_name: String,
    pub(super) is_param: bool,
    pub(super) use_pickle: bool,
    pub(super) tensor_meta: Option<TensorMeta>,
}

/// A value of a node, of one of PyTorch's kinds.
#[derive(Debug)]
pub(super) enum Argument {
    None,
    Tensor(String),
    Tensors(Vec<String>),
    /// Tensors, some of which are left out.
    OptionalTensors(Vec<Option<String>>),
    SymInt(SizeArgument),
    SymInts(Vec<SizeArgument>),
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Floats(Vec<f64>),
    Bool(bool),
    Text(String),
    /// PyTorch's number of an element type.
    ScalarType(u64),
    /// A device, a layout, a memory format: where or in which order elements are, not what they are.
    Placement,
    /// A program of its own, and its name.
    Graph(String, Box<GraphRecord>),
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(super) enum InputSpec {
    Parameter {
        value: String,
        key: String,
    },
    Buffer {
        value: String,
        key: String,
        is_persistent: bool,
    },
    Constant {
        value: String,
        key: String,
    },
    User(Argument),
    /// A kind that is not supported, by its name.
    Other(String),
}

#[derive(Debug)]
pub(super) enum OutputSpec {
    User(Argument),
    /// A kind that is not supported, by its name.
    Other(String),
}

/// A value that is written as an object with one key, which names its kind.
trait OfKind: Sized {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error>;
}

struct OneKind<T>(PhantomData<T>);

impl<'de, T: OfKind> Visitor<'de> for OneKind<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with one key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let kind = map.next_key::<String>()?.ok_or_else(|| A::Error::custom("an object without a key"))?;
        let value = T::read(&kind, &mut map)?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("an object with more than one key"));
        }
        Ok(value)
    }
}

macro_rules! of_one_kind {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(OneKind(PhantomData))
            }
        }
    )*};
}
of_one_kind!(Argument, InputSpec, OutputSpec);

impl OfKind for Argument {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match kind {
            "as_none" => map.next_value::<IgnoredAny>().map(|_| Self::None)?,
            "as_tensor" => Self::Tensor(map.next_value::<TensorName>()?.name),
            "as_tensors" => {
                let tensors = map.next_value::<Short<TensorName>>()?.0;
                Self::Tensors(tensors.into_iter().map(|tensor| tensor.name).collect())
            }
            "as_optional_tensors" => {
                let name = |tensor| match tensor {
                    Self::Tensor(name) => Ok(Some(name)),
                    Self::None => Ok(None),
                    _ => Err(A::Error::custom("a list of tensors with something else in it")),
                };
                let tensors = map.next_value::<Short<Self>>()?.0.into_iter();
                Self::OptionalTensors(tensors.map(name).collect::<Result<_, _>>()?)
            }
            "as_sym_int" => Self::SymInt(map.next_value()?),
            "as_sym_ints" => Self::SymInts(map.next_value::<Short<SizeArgument>>()?.0),
            "as_int" => Self::Int(map.next_value()?),
            "as_ints" => Self::Ints(map.next_value::<Short<i64>>()?.0),
            "as_float" => Self::Float(map.next_value::<Number>()?.0),
            "as_floats" => Self::Floats(map.next_value::<Short<Number>>()?.0.iter().map(|number| number.0).collect()),
            "as_bool" => Self::Bool(map.next_value()?),
            "as_string" => Self::Text(map.next_value()?),
            "as_scalar_type" => Self::ScalarType(map.next_value()?),
            "as_graph" => {
                let GraphArgument { name, graph } = map.next_value()?;
                Self::Graph(name, Box::new(graph))
            }
            "as_device" | "as_layout" | "as_memory_format" => {
                map.next_value::<IgnoredAny>().map(|_| Self::Placement)?
            }
            _ => map.next_value::<IgnoredAny>().map(|_| Self::Other)?,
        })
    }
}

impl OfKind for InputSpec {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct Stored {
            arg: TensorName,
            #[serde(alias = "parameter_name", alias = "buffer_name", alias = "tensor_constant_name")]
            key: String,
            #[serde(default)]
            persistent: bool,
        }
        #[derive(Deserialize)]
        struct User {
            arg: Argument,
        }
        Ok(match kind {
            "user_input" => Self::User(map.next_value::<User>()?.arg),
            "parameter" | "buffer" | "tensor_constant" => {
                let Stored { arg: TensorName { name: value }, key, persistent } = map.next_value()?;
                match kind {
                    "parameter" => Self::Parameter { value, key },
                    "buffer" => Self::Buffer { value, key, is_persistent: persistent },
                    _ => Self::Constant { value, key },
                }
            }
            other => map.next_value::<IgnoredAny>().map(|_| Self::Other(other.to_owned()))?,
        })
    }
}

impl OfKind for OutputSpec {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct UserOutput {
            arg: Argument,
        }
        Ok(match kind {
            "user_output" => Self::User(map.next_value::<UserOutput>()?.arg),
            other => map.next_value::<IgnoredAny>().map(|_| Self::Other(other.to_owned()))?,
        })
    }
}
