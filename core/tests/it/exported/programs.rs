//! Small exported networks, made here so that tests can change them.

use std::io::Write;

use distillery_core::exported::{Error, ExportedNetwork};
use serde_json::{Value, json};

/// The batch size in shapes.
pub const B: i64 = -1;

/// An exported network: its documents and storages.
#[derive(Clone)]
pub struct Network {
    pub program: Value,
    pub weights: Value,
    pub constants: Value,
    /// Entries below the folder, beside the documents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A symbolic expression.
pub fn expression(text: &str) -> Value {
    json!({"as_expr": {"expr_str": text, "hint": {"as_int": 2}}})
}

fn sizes(shape: &[i64]) -> Value {
    let size = |&size: &i64| match size {
        B => expression("Symbol('s77', positive=True, integer=True)"),
        size => json!({"as_int": size}),
    };
    shape.iter().map(size).collect()
}

pub fn meta(shape: &[i64]) -> Value {
    let mut strides = vec![1; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension] * shape[dimension];
    }
    json!({
        "dtype": 7, "sizes": sizes(shape), "requires_grad": false, "device": {"type": "cpu", "index": null},
        "strides": sizes(&strides.iter().map(|stride: &i64| stride.abs().max(1)).collect::<Vec<_>>()),
        "storage_offset": {"as_int": 0}, "layout": 7,
    })
}

pub fn tensor(name: &str) -> Value {
    json!({"as_tensor": {"name": name}})
}

pub fn ints(numbers: &[i64]) -> Value {
    json!({"as_ints": numbers})
}

pub fn int(number: i64) -> Value {
    json!({"as_int": number})
}

pub fn float(number: f64) -> Value {
    json!({"as_float": number})
}

pub fn flag(flag: bool) -> Value {
    json!({"as_bool": flag})
}

impl Network {
    /// Images [B, 3, 8, 8], and nothing else.
    pub fn new() -> Self {
        Self {
            program: json!({
                "graph_module": {
                    "graph": {
                        "inputs": [tensor("x")], "outputs": [], "nodes": [],
                        "tensor_values": {"x": meta(&[B, 3, 8, 8])},
                        "sym_int_values": {}, "sym_bool_values": {}, "is_single_tensor_return": false,
                        "custom_obj_values": {}, "sym_float_values": {},
                    },
                    "signature": {"input_specs": [{"user_input": {"arg": tensor("x")}}], "output_specs": []},
                    "module_call_graph": [], "metadata": {}, "treespec_namedtuple_fields": {},
                },
                "opset_version": {"aten": 10}, "range_constraints": {"s77": {"min_val": 2, "max_val": 64}},
                "schema_version": {"major": 8, "minor": 17}, "verifiers": ["TRAINING"], "torch_version": "2.11.0",
                "guards_code": [],
            }),
            weights: json!({"config": {}}),
            constants: json!({"config": {}}),
            files: vec![("byteorder".to_owned(), b"little".to_vec()), ("archive_format".to_owned(), b"pt2".to_vec())],
        }
    }

    pub fn graph(&mut self) -> &mut Value {
        &mut self.program["graph_module"]["graph"]
    }

    pub fn recorded(&mut self, name: &str) -> &mut Value {
        &mut self.graph()["tensor_values"][name]
    }

    pub fn signature(&mut self) -> &mut Value {
        &mut self.program["graph_module"]["signature"]
    }

    pub fn input(&mut self, spec: Value, name: &str, recorded: Value) {
        let at = self.signature()["input_specs"].as_array().unwrap().len() - 1;
        self.signature()["input_specs"].as_array_mut().unwrap().insert(at, spec);
        self.graph()["inputs"].as_array_mut().unwrap().insert(at, tensor(name));
        *self.recorded(name) = recorded;
    }

    fn stored(&mut self, key: &str, mut meta: Value, bytes: usize, is_parameter: bool) {
        meta["requires_grad"] = json!(is_parameter);
        let file = format!("weight_{}", self.files.len());
        self.weights["config"][key] =
            json!({"path_name": file, "is_param": is_parameter, "use_pickle": false, "tensor_meta": meta});
        self.files.push((format!("data/weights/{file}"), vec![0; bytes]));
    }

    /// A parameter whose name in the graph is its key.
    pub fn parameter(&mut self, key: &str, shape: &[i64]) {
        self.stored(key, meta(shape), 4 * shape.iter().product::<i64>() as usize, true);
        self.input(json!({"parameter": {"arg": {"name": key}, "parameter_name": key}}), key, meta(shape));
    }

    pub fn buffer(&mut self, key: &str, shape: &[i64]) {
        self.stored(key, meta(shape), 4 * shape.iter().product::<i64>() as usize, false);
        self.buffer_input(key, meta(shape));
    }

    /// A buffer with one integer.
    pub fn counter(&mut self, key: &str) {
        let mut meta = meta(&[]);
        meta["dtype"] = json!(5);
        self.stored(key, meta.clone(), 8, false);
        self.buffer_input(key, meta);
    }

    /// A tensor that is not in the state dict.
    pub fn constant(&mut self, name: &str, shape: &[i64], elements: &[f32]) {
        let file = format!("tensor_{}", self.files.len());
        self.constants["config"][name] =
            json!({"path_name": file, "is_param": false, "use_pickle": false, "tensor_meta": meta(shape)});
        let bytes = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
        self.files.push((format!("data/constants/{file}"), bytes));
        self.input(
            json!({"tensor_constant": {"arg": {"name": name}, "tensor_constant_name": name}}),
            name,
            meta(shape),
        );
    }

    fn buffer_input(&mut self, key: &str, meta: Value) {
        self.input(json!({"buffer": {"arg": {"name": key}, "buffer_name": key, "persistent": true}}), key, meta);
    }

    /// A node with one result, whose name is the node's.
    pub fn node(&mut self, operator: &str, name: &str, inputs: &[(&str, Value)], shape: &[i64]) {
        self.bare_node(&format!("torch.ops.aten.{operator}"), inputs, json!([tensor(name)]));
        *self.recorded(name) = meta(shape);
    }

    pub fn bare_node(&mut self, target: &str, inputs: &[(&str, Value)], outputs: Value) {
        let inputs: Value = inputs.iter().map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1})).collect();
        let node = json!({
            "target": target, "inputs": inputs, "outputs": outputs, "is_hop_single_tensor_return": null,
            "metadata": {"stack_trace": "File \"/home/somebody/secret.py\", line 7", "torch_fn": "f;g"},
        });
        self.graph()["nodes"].as_array_mut().unwrap().push(node);
    }

    /// Makes a value the network's result.
    pub fn result(&mut self, name: &str) {
        self.graph()["outputs"] = json!([tensor(name)]);
        self.signature()["output_specs"] = json!([{"user_output": {"arg": tensor(name)}}]);
    }

    /// A linear layer from [B, 4] to the result, [B, 5].
    pub fn classify(&mut self, input: &str) {
        self.parameter("fc.weight", &[5, 4]);
        self.node("linear.default", "logits", &[("input", tensor(input)), ("weight", tensor("fc.weight"))], &[B, 5]);
        self.result("logits");
    }

    /// Average pooling of a map [B, 4, …] and [`Network::classify`].
    pub fn pool_and_classify(&mut self, map: &str) {
        let pooling = [("self", tensor(map)), ("output_size", ints(&[1, 1]))];
        self.node("adaptive_avg_pool2d.default", "pooled", &pooling, &[B, 4, 1, 1]);
        self.node("flatten.using_ints", "flat", &[("self", tensor("pooled")), ("start_dim", int(1))], &[B, 4]);
        self.classify("flat");
    }

    /// A 3×3 convolution of the images to the map `conv` [B, 4, 8, 8].
    pub fn convolve(&mut self) {
        self.parameter("conv.weight", &[4, 3, 3, 3]);
        let inputs = [
            ("input", tensor("x")),
            ("weight", tensor("conv.weight")),
            ("bias", json!({"as_none": true})),
            ("stride", ints(&[1, 1])),
            ("padding", ints(&[1, 1])),
        ];
        self.node("conv2d.default", "conv", &inputs, &[B, 4, 8, 8]);
    }

    /// Convolution, ReLU, average pooling, linear layer.
    pub fn small() -> Self {
        let mut network = Self::new();
        network.convolve();
        network.node("relu_.default", "act", &[("self", tensor("conv"))], &[B, 4, 8, 8]);
        network.pool_and_classify("act");
        network
    }

    /// The entries of the archive, below its folder.
    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let documents = [
            ("models/model.json", &self.program),
            ("data/weights/model_weights_config.json", &self.weights),
            ("data/constants/model_constants_config.json", &self.constants),
        ];
        let documents = documents.map(|(name, document)| (name.to_owned(), serde_json::to_vec(document).unwrap()));
        documents.into_iter().chain(self.files.iter().cloned()).collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let entries = self.entries();
        archive(entries.iter().map(|(name, bytes)| (format!("net/{name}"), bytes.as_slice())))
    }

    pub fn read(&self) -> Result<ExportedNetwork, Error> {
        ExportedNetwork::from_bytes(self.bytes())
    }

    /// The faults of the network: where, and what.
    pub fn faults(&self) -> Vec<String> {
        match self.read() {
            Err(Error::Faults(faults)) => {
                faults.list().iter().map(|fault| format!("{}: {}", fault.at, fault.message)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The only fault.
    pub fn fault(&self) -> String {
        let mut faults = self.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }
}

/// An archive whose entries are stored as they are.
pub fn archive<'a>(entries: impl IntoIterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
