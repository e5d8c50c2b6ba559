//! Networks under construction, for tests of single operations.

use serde_json::{Value, json};

use super::students::randomise;
use crate::exported::programs::{B, Network, expression, flag, int, ints, meta, tensor};

/// A network under construction, and its latest value.
pub struct Case {
    pub network: Network,
    pub value: &'static str,
    pub shape: Vec<i64>,
}

pub type Inputs = Vec<(&'static str, Value)>;

impl Case {
    /// Images [B, 3, 8, 8].
    pub fn new() -> Self {
        Self { network: Network::new(), value: "x", shape: vec![B, 3, 8, 8] }
    }

    /// A map [B, 4, 8, 8].
    pub fn map() -> Self {
        let mut case = Self::new();
        case.network.convolve();
        (case.value, case.shape) = ("conv", vec![B, 4, 8, 8]);
        case
    }

    /// Rows [B, 4, 64].
    pub fn rows() -> Self {
        Self::map().then("flatten.using_ints", "rows", vec![("start_dim", int(2))], &[B, 4, 64])
    }

    /// An operator on the latest value, which its schema calls `first`.
    pub fn with(mut self, first: &str, operator: &str, name: &'static str, others: Inputs, shape: &[i64]) -> Self {
        let inputs: Vec<_> = std::iter::once((first, tensor(self.value))).chain(others).collect();
        self.network.node(operator, name, &inputs, shape);
        (self.value, self.shape) = (name, shape.to_vec());
        self
    }

    pub fn then(self, operator: &str, name: &'static str, others: Inputs, shape: &[i64]) -> Self {
        self.with("self", operator, name, others, shape)
    }

    /// An operator with several results, of which one is the next value.
    pub fn parts(mut self, operator: &str, names: &[&'static str], shapes: &[&[i64]], others: Inputs) -> Self {
        let inputs: Vec<_> = std::iter::once(("self", tensor(self.value))).chain(others).collect();
        let outputs: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        self.network.bare_node(&format!("torch.ops.aten.{operator}"), &inputs, json!([{"as_tensors": outputs}]));
        for (name, shape) in names.iter().zip(shapes) {
            *self.network.recorded(name) = meta(shape);
        }
        (self.value, self.shape) = (names[1], shapes[1].to_vec());
        self
    }

    pub fn parameters(mut self, parameters: &[(&str, &[i64])]) -> Self {
        parameters.iter().for_each(|(key, shape)| self.network.parameter(key, shape));
        self
    }

    /// A tensor that is not in the state dict, of PyTorch's element type with this number.
    pub fn constant(mut self, name: &'static str, dtype: u64, shape: &[i64], elements: Vec<u8>) -> Self {
        let mut recorded = meta(shape);
        recorded["dtype"] = json!(dtype);
        self.network.constants["config"][name] =
            json!({"path_name": "tensor_0", "is_param": false, "use_pickle": false, "tensor_meta": recorded});
        self.network.files.push(("data/constants/tensor_0".to_owned(), elements));
        self.network.input(
            json!({"tensor_constant": {"arg": {"name": name}, "tensor_constant_name": name}}),
            name,
            recorded,
        );
        self
    }

    /// The batch size as the name `b`.
    pub fn batch_size(mut self) -> Self {
        let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
        self.network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
        self.network.graph()["sym_int_values"]["b"] = expression("Symbol('s77', positive=True, integer=True)");
        self
    }

    /// All elements of an image to logits, so that each of them counts.
    pub fn network(mut self) -> Network {
        let elements = self.shape[1..].iter().product();
        self = self.then("flatten.using_ints", "all", vec![("start_dim", int(1))], &[B, elements]);
        self.network.parameter("head.weight", &[5, elements]);
        self.network.parameter("head.bias", &[5]);
        let others = vec![("weight", tensor("head.weight")), ("bias", tensor("head.bias"))];
        self = self.with("input", "linear.default", "logits", others, &[B, 5]);
        self.network.result("logits");
        randomise(&mut self.network);
        self.network
    }
}

pub fn names(sizes: &[&str]) -> Value {
    let size = |size: &&str| match size.parse::<i64>() {
        Ok(number) => json!({"as_int": number}),
        Err(_) => json!({"as_name": size}),
    };
    json!({"as_sym_ints": sizes.iter().map(size).collect::<Vec<_>>()})
}

pub fn window(size: i64, stride: i64, padding: i64, rounds_up: bool) -> Inputs {
    vec![
        ("kernel_size", ints(&[size, size])),
        ("stride", ints(&[stride, stride])),
        ("padding", ints(&[padding, padding])),
        ("ceil_mode", flag(rounds_up)),
    ]
}

/// Side of a map of 8×8 after a pooling.
pub fn side(size: i64, stride: i64, padding: i64, rounds_up: bool) -> i64 {
    let room = 8 + 2 * padding - size;
    let steps = if rounds_up { (room + stride - 1) / stride } else { room / stride };
    if rounds_up && steps * stride >= 8 + padding { steps } else { steps + 1 }
}
