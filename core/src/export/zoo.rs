//! The networks of [`crate::architecture`] as graphs of ATen's operators.

use crate::architecture::{self, Layout, Map, Pool, Role};
use crate::checkpoint::Dtype;
use crate::exported::{Activation, Arithmetic, Graph, Node, Op, Operand, Origin, Size, Value, ValueId, Window};

/// A network's graph in evaluation, from images to logits. The index of a stored tensor is that of its entry.
pub(super) fn graph(layout: &Layout) -> Graph {
    let stored = layout.entries.iter().enumerate().map(|(index, entry)| Value {
        dtype: Dtype::F32,
        shape: entry.shape.iter().map(|&size| Size::Fixed(size)).collect(),
        origin: Origin::Stored(index),
    });
    let mut builder = ZooConverter { layout, values: stored.collect(), nodes: Vec::new() };
    let images = builder.value(shape_of(layout.nodes[0].map), Origin::Images);
    // The value that each node of the layout computes.
    let mut maps = vec![images];
    for (index, node) in layout.nodes.iter().enumerate().skip(1) {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| maps[input]).collect();
        maps.push(builder.node(index, node, &inputs));
    }
    let logits = builder.classifier(maps[maps.len() - 1]);
    Graph { values: builder.values, nodes: builder.nodes, images, logits }
}

fn shape_of(map: Map) -> Vec<Size> {
    let side = Size::Fixed(map.side.into());
    vec![Size::Batch(1), Size::Fixed(map.channels.into()), side, side]
}

fn window(pool: Pool) -> Window {
    let both = |number: u32| [u64::from(number); 2];
    Window {
        size: both(pool.size),
        stride: both(pool.stride),
        padding: both(pool.padding),
        dilation: [1, 1],
        rounds_up: false,
    }
}

struct ZooConverter<'a> {
    layout: &'a Layout,
    /// The entries of the layout first.
    values: Vec<Value>,
    nodes: Vec<Node>,
}

impl ZooConverter<'_> {
    fn value(&mut self, shape: Vec<Size>, origin: Origin) -> ValueId {
        self.values.push(Value { dtype: Dtype::F32, shape, origin });
        self.values.len() - 1
    }

    fn push(&mut self, name: String, operator: &str, op: Op, inputs: Vec<ValueId>, shape: Vec<Size>) -> ValueId {
        let output = self.value(shape, Origin::Node(self.nodes.len()));
        let operator = format!("aten.{operator}");
        self.nodes.push(Node { name, operator, op, full_precision: false, inputs, outputs: vec![output] });
        output
    }

    /// The layer's part of a weight's key: `layer1.0.conv1`.
    fn layer(&self, weight: usize) -> String {
        let key = &self.layout.entries[weight].key;
        key.strip_suffix(".weight").unwrap_or(key).to_owned()
    }

    fn node(&mut self, index: usize, node: &architecture::LayoutNode, inputs: &[ValueId]) -> ValueId {
        use architecture::LayoutOp as Layer;
        let shape = shape_of(node.map);
        let named = |what: &str| format!("{what}_{index}");
        let input = inputs.to_vec();
        match node.op {
            Layer::Images => inputs[0],
            Layer::Convolution { weight } => self.convolution(weight, inputs[0], shape),
            Layer::BatchNorm { weight } => {
                let op = Op::BatchNorm { training: false, momentum: 0.1, epsilon: 1e-5, by_image: false };
                let inputs = std::iter::once(inputs[0]).chain(weight..weight + 4).collect();
                self.push(self.layer(weight), "batch_norm.default", op, inputs, shape)
            }
            Layer::Relu => self.push(named("relu"), "relu.default", Op::Activation(Activation::Relu), input, shape),
            Layer::Relu6 => {
                let op = Op::Activation(Activation::Clamp { low: 0.0, high: 6.0 });
                self.push(named("relu6"), "relu6.default", op, input, shape)
            }
            Layer::Add => {
                let op = Op::Arithmetic { kind: Arithmetic::Add, other: Operand::Tensor };
                self.push(named("add"), "add.Tensor", op, input, shape)
            }
            Layer::Concat => self.push(named("cat"), "cat.default", Op::Concat { dimension: 1 }, input, shape),
            Layer::Channels { from, count } => {
                let (start, end) = (u64::from(from), u64::from(from) + u64::from(count));
                self.push(named("slice"), "slice.Tensor", Op::Slice { dimension: 1, start, end, step: 1 }, input, shape)
            }
            Layer::Shuffle { groups } => self.shuffle(index, inputs[0], groups.into()),
            Layer::Subsample { zeros } => self.subsample(index, inputs[0], zeros.into(), shape),
            Layer::AveragePool(pool) => {
                let op = Op::AveragePool { window: window(pool), counts_padding: true };
                self.push(named("avg_pool2d"), "avg_pool2d.default", op, input, shape)
            }
            Layer::MaxPool(pool) => {
                self.push(named("max_pool2d"), "max_pool2d.default", Op::MaxPool(window(pool)), input, shape)
            }
        }
    }

    fn convolution(&mut self, weight: usize, input: ValueId, shape: Vec<Size>) -> ValueId {
        let Role::Convolution(geometry) = self.layout.entries[weight].role else {
            unreachable!("a convolution's weight is the weight of a convolution")
        };
        let both = |pair: [u32; 2]| pair.map(u64::from);
        let op = Op::Convolution {
            stride: both(geometry.stride),
            padding: both(geometry.padding),
            dilation: [1, 1],
            groups: geometry.groups.into(),
            bias: geometry.bias,
        };
        let mut inputs = vec![input, weight];
        inputs.extend(geometry.bias.then_some(weight + 1));
        self.push(self.layer(weight), "conv2d.default", op, inputs, shape)
    }

    /// Moves channel c of group g to position c·groups + g.
    fn shuffle(&mut self, index: usize, input: ValueId, groups: u64) -> ValueId {
        let whole = self.values[input].shape.clone();
        let [batch, channels, height, width] = [0, 1, 2, 3].map(|dimension| whole[dimension]);
        let each = Size::Fixed(channels.per_image() / groups);
        let groups = Size::Fixed(groups);
        let split = vec![batch, groups, each, height, width];
        let swapped = vec![batch, each, groups, height, width];
        let named = |what: &str| format!("shuffle_{index}_{what}");
        let parts = self.push(named("split"), "view.default", Op::Reshape { shape: split.clone() }, vec![input], split);
        let order = Op::Permute { order: vec![0, 2, 1, 3, 4] };
        let mixed = self.push(named("mix"), "permute.default", order, vec![parts], swapped);
        self.push(named("join"), "reshape.default", Op::Reshape { shape: whole.clone() }, vec![mixed], whole)
    }

    /// Every second pixel, with channels of zeros on both sides.
    fn subsample(&mut self, index: usize, input: ValueId, zeros: u64, shape: Vec<Size>) -> ValueId {
        let named = |what: &str| format!("subsample_{index}_{what}");
        let mut current = input;
        for dimension in [2, 3] {
            let mut smaller = self.values[current].shape.clone();
            let end = smaller[dimension].per_image();
            smaller[dimension] = shape[dimension];
            let op = Op::Slice { dimension, start: 0, end, step: 2 };
            let side = if dimension == 2 { "rows" } else { "columns" };
            current = self.push(named(side), "slice.Tensor", op, vec![current], smaller);
        }
        let op = Op::Pad { amounts: vec![[zeros, zeros], [0, 0], [0, 0]], value: 0.0 };
        self.push(named("pad"), "pad.default", op, vec![current], shape)
    }

    /// Averages the positions and classifies.
    fn classifier(&mut self, map: ValueId) -> ValueId {
        let weight = self.layout.entries.len() - 2;
        let [batch, channels] = [0, 1].map(|dimension| self.values[map].shape[dimension]);
        let classes = self.values[weight].shape[0];
        let one = Size::Fixed(1);
        let pool = Op::AdaptiveAveragePool { size: [1, 1] };
        let pooled = self.push(
            "pool".to_owned(),
            "adaptive_avg_pool2d.default",
            pool,
            vec![map],
            vec![batch, channels, one, one],
        );
        let shape = vec![batch, channels];
        let flatten = Op::Reshape { shape: shape.clone() };
        let flat = self.push("flatten".to_owned(), "flatten.using_ints", flatten, vec![pooled], shape);
        let inputs = vec![flat, weight, weight + 1];
        self.push(self.layer(weight), "linear.default", Op::Linear { bias: true }, inputs, vec![batch, classes])
    }
}
