//! Graphs computed step by step in double precision, as PyTorch documents its operators: slow, and written without
//! regard to how they are exported.

use distillery_core::exported::{Arithmetic, Comparison, Graph, Node, Op, Operand, Origin, Size, Window};

use super::functions::activation;
use super::windows::{adaptive_pool, convolution, pool, transposed_convolution};

/// A tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Tensor {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape: shape.to_vec(), data }
    }

    /// Each element from its index.
    pub fn build(shape: &[usize], mut element: impl FnMut(&[usize]) -> f64) -> Self {
        let data = (0..shape.iter().product()).map(|flat| element(&unflattened(flat, shape))).collect();
        Self { shape: shape.to_vec(), data }
    }

    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.shape).fold(0, |flat, (index, size)| flat * size + index)]
    }

    /// The element that broadcasting puts at an index of a larger shape.
    fn broadcast(&self, index: &[usize]) -> f64 {
        let index = &index[index.len() - self.shape.len()..];
        let index: Vec<_> = index.iter().zip(&self.shape).map(|(&at, &size)| if size == 1 { 0 } else { at }).collect();
        self.at(&index)
    }

    fn map(&self, function: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|&value| function(value)).collect() }
    }
}

fn unflattened(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &size) in index.iter_mut().zip(shape).rev() {
        (*at, flat) = (flat % size, flat / size);
    }
    index
}

/// The logits of images [N, C, H, W]. `stored` gives the elements of a stored tensor.
pub fn logits(graph: &Graph, images: &Tensor, stored: impl Fn(usize) -> Vec<f64>) -> Tensor {
    let batch = images.shape[0];
    let mut values: Vec<Option<Tensor>> = graph
        .values
        .iter()
        .map(|value| match value.origin {
            Origin::Stored(index) => Some(Tensor::new(&sizes(&value.shape, batch), stored(index))),
            Origin::Images | Origin::Node(_) => None,
        })
        .collect();
    values[graph.images] = Some(images.clone());
    for node in &graph.nodes {
        let inputs: Vec<&Tensor> = node.inputs.iter().map(|&input| values[input].as_ref().unwrap()).collect();
        let shapes: Vec<_> = node.outputs.iter().map(|&output| sizes(&graph.values[output].shape, batch)).collect();
        let results = results(node, &inputs, &shapes, batch);
        for ((&output, result), shape) in node.outputs.iter().zip(results).zip(shapes) {
            assert_eq!(result.shape, shape, "{}", node.name);
            values[output] = Some(result);
        }
    }
    values[graph.logits].clone().unwrap()
}

fn sizes(shape: &[Size], batch: usize) -> Vec<usize> {
    let size = |size: &Size| match *size {
        Size::Fixed(size) => size as usize,
        Size::Batch(times) => times as usize * batch,
    };
    shape.iter().map(size).collect()
}

fn results(node: &Node, inputs: &[&Tensor], shapes: &[Vec<usize>], batch: usize) -> Vec<Tensor> {
    match &node.op {
        Op::Split { dimension, sizes } => {
            let starts = sizes.iter().scan(0, |next, &size| Some(std::mem::replace(next, *next + size as usize)));
            let part = |(start, shape): (usize, &Vec<usize>)| {
                Tensor::build(shape, |index| {
                    let mut index = index.to_vec();
                    index[*dimension] += start;
                    inputs[0].at(&index)
                })
            };
            starts.zip(shapes).map(part).collect()
        }
        Op::Unbind { dimension } => (0..shapes.len()).map(|index| select(inputs[0], *dimension, index)).collect(),
        op => vec![result(op, inputs, &shapes[0], batch)],
    }
}

fn select(input: &Tensor, dimension: usize, at: usize) -> Tensor {
    let mut shape = input.shape.clone();
    shape.remove(dimension);
    Tensor::build(&shape, |index| {
        let mut index = index.to_vec();
        index.insert(dimension, at);
        input.at(&index)
    })
}

fn result(op: &Op, inputs: &[&Tensor], shape: &[usize], batch: usize) -> Tensor {
    let input = inputs.first().copied();
    let x = || input.unwrap();
    match op {
        Op::Split { .. } | Op::Unbind { .. } => unreachable!("these have several results"),
        Op::Convolution { stride, padding, dilation, groups, bias } => {
            let window =
                Window { size: [0; 2], stride: *stride, padding: *padding, dilation: *dilation, rounds_up: false };
            convolution(x(), inputs[1], bias.then(|| inputs[2]), window, *groups as usize, shape)
        }
        Op::TransposedConvolution { stride, padding, dilation, groups, bias, .. } => {
            let window =
                Window { size: [0; 2], stride: *stride, padding: *padding, dilation: *dilation, rounds_up: false };
            transposed_convolution(x(), inputs[1], bias.then(|| inputs[2]), window, *groups as usize, shape)
        }
        Op::BatchNorm { epsilon, .. } => Tensor::build(shape, |index| {
            let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|at| inputs[at].data[index[1]]);
            (x().at(index) - mean) / (variance + epsilon).sqrt() * scale + shift
        }),
        Op::LayerNorm { dimensions, epsilon, scale, shift } => {
            let each = shape[shape.len() - dimensions..].iter().product();
            affine(normalised(x(), each, *epsilon), inputs, *scale, *shift, |flat| flat % each)
        }
        Op::GroupNorm { groups, epsilon, scale, shift } => {
            let positions: usize = shape[2..].iter().product();
            let each = shape[1] / *groups as usize * positions;
            affine(normalised(x(), each, *epsilon), inputs, *scale, *shift, |flat| flat / positions % shape[1])
        }
        Op::Linear { bias } => Tensor::build(shape, |index| {
            let (output, row) = (index[index.len() - 1], &index[..index.len() - 1]);
            let width = inputs[1].shape[1];
            let start = if *bias { inputs[2].data[output] } else { 0.0 };
            (0..width).map(|at| x().at(&[row, &[at]].concat()) * inputs[1].at(&[output, at])).sum::<f64>() + start
        }),
        Op::Matmul => matmul(x(), inputs[1], shape),
        Op::Attention { mask, is_causal, scale, .. } => {
            attention(inputs, mask.then(|| inputs[3]), *is_causal, *scale, shape)
        }
        Op::Activation(function) => x().map(|x| activation(*function, x)),
        Op::Softmax { dimension } => softmax(x(), *dimension),
        Op::LogSoftmax { dimension } => softmax(x(), *dimension).map(f64::ln),
        Op::Prelu => Tensor::build(shape, |index| {
            let slopes = &inputs[1].data;
            let slope = slopes[if slopes.len() == 1 { 0 } else { index[1] }];
            let x = x().at(index);
            if x > 0.0 { x } else { slope * x }
        }),
        Op::Where => {
            Tensor::build(shape, |index| inputs[if inputs[0].broadcast(index) != 0.0 { 1 } else { 2 }].broadcast(index))
        }
        Op::Arithmetic { kind, other } => {
            let combine = |one: f64, two: f64| match kind {
                Arithmetic::Add => one + two,
                Arithmetic::Subtract => one - two,
                Arithmetic::Multiply => one * two,
                Arithmetic::Divide => one / two,
                Arithmetic::Maximum => one.max(two),
                Arithmetic::Minimum => one.min(two),
                Arithmetic::Power => one.powf(two),
            };
            match other {
                Operand::Number(number) => x().map(|x| combine(x, *number)),
                Operand::Tensor => {
                    Tensor::build(shape, |index| combine(x().broadcast(index), inputs[1].broadcast(index)))
                }
            }
        }
        Op::Compare { kind, other } => {
            let holds = |one: f64, two: f64| {
                f64::from(u8::from(match kind {
                    Comparison::Less => one < two,
                    Comparison::LessOrEqual => one <= two,
                    Comparison::Greater => one > two,
                    Comparison::GreaterOrEqual => one >= two,
                    Comparison::Equal => one == two,
                    Comparison::NotEqual => one != two,
                }))
            };
            match other {
                Operand::Number(number) => x().map(|x| holds(x, *number)),
                Operand::Tensor => {
                    Tensor::build(shape, |index| holds(x().broadcast(index), inputs[1].broadcast(index)))
                }
            }
        }
        Op::Concat { dimension } => Tensor::build(shape, |index| {
            let mut index = index.to_vec();
            for input in inputs {
                if index[*dimension] < input.shape[*dimension] {
                    return input.at(&index);
                }
                index[*dimension] -= input.shape[*dimension];
            }
            unreachable!("the sizes add up")
        }),
        Op::MaxPool(window) => pool(x(), *window, shape, |values, _| values.iter().copied().fold(f64::MIN, f64::max)),
        Op::AveragePool { window, counts_padding } => pool(x(), *window, shape, |values, places| {
            values.iter().sum::<f64>() / if *counts_padding { places as f64 } else { values.len() as f64 }
        }),
        Op::AdaptiveAveragePool { size } => {
            adaptive_pool(x(), *size, shape, |values| values.iter().sum::<f64>() / values.len() as f64)
        }
        Op::AdaptiveMaxPool { size } => {
            adaptive_pool(x(), *size, shape, |values| values.iter().copied().fold(f64::MIN, f64::max))
        }
        Op::Mean { dimensions, .. } => {
            reduced(x(), dimensions, shape, |values| values.iter().sum::<f64>() / values.len() as f64)
        }
        Op::Max { dimensions, .. } => {
            reduced(x(), dimensions, shape, |values| values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        }
        Op::Norm { dimensions, .. } => {
            reduced(x(), dimensions, shape, |values| values.iter().map(|value| value * value).sum::<f64>().sqrt())
        }
        Op::LogSumExp { dimensions, .. } => {
            reduced(x(), dimensions, shape, |values| values.iter().map(|value| value.exp()).sum::<f64>().ln())
        }
        Op::CumulativeSum { dimension } => Tensor::build(shape, |index| {
            let mut index = index.to_vec();
            let last = index[*dimension];
            let upto = |at: usize| {
                index[*dimension] = at;
                x().at(&index)
            };
            (0..=last).map(upto).sum()
        }),
        Op::Reshape { .. } => Tensor::new(shape, x().data.clone()),
        Op::Expand { .. } => Tensor::build(shape, |index| x().broadcast(index)),
        Op::Permute { order } => Tensor::build(shape, |index| {
            let mut from = vec![0; index.len()];
            order.iter().zip(index).for_each(|(&dimension, &at)| from[dimension] = at);
            x().at(&from)
        }),
        Op::Slice { dimension, start, step, .. } => Tensor::build(shape, |index| {
            let mut index = index.to_vec();
            index[*dimension] = *start as usize + index[*dimension] * *step as usize;
            x().at(&index)
        }),
        Op::Select { dimension, index } => select(x(), *dimension, *index as usize),
        Op::Pad { amounts, value } => Tensor::build(shape, |index| {
            let first = index.len() - amounts.len();
            let mut from = index.to_vec();
            for (at, [before, _]) in from[first..].iter_mut().zip(amounts) {
                let Some(inside) = at.checked_sub(*before as usize) else { return *value };
                *at = inside;
            }
            if from.iter().zip(&x().shape).all(|(at, size)| at < size) { x().at(&from) } else { *value }
        }),
        Op::Roll { shifts, dimensions } => Tensor::build(shape, |index| {
            let mut from = index.to_vec();
            for (shift, &dimension) in shifts.iter().zip(dimensions) {
                let size = shape[dimension] as i64;
                from[dimension] = (from[dimension] as i64 - shift).rem_euclid(size) as usize;
            }
            x().at(&from)
        }),
        Op::Rows => Tensor::build(shape, |index| {
            let rank = inputs[1].shape.len();
            let row = inputs[1].at(&index[..rank]);
            let row = if row < 0.0 { row + x().shape[0] as f64 } else { row };
            x().at(&[&[row as usize], &index[rank..]].concat())
        }),
        Op::Dropout { .. } | Op::Identity => x().clone(),
        Op::Empty { shape } => Tensor::build(&sizes(shape, batch), |_| f64::NAN),
        // So that the mask is 1 after its division by this.
        Op::Bernoulli { probability } => Tensor::build(shape, |_| *probability),
        Op::CountBatch => x().map(|count| count + 1.0),
    }
}

/// Combines the elements of some dimensions, whose size becomes 1.
fn reduced(x: &Tensor, dimensions: &[usize], shape: &[usize], combine: impl Fn(&[f64]) -> f64) -> Tensor {
    let size = |(at, &size): (usize, &usize)| if dimensions.contains(&at) { 1 } else { size };
    let kept: Vec<usize> = x.shape.iter().enumerate().map(size).collect();
    let mut groups = vec![Vec::new(); kept.iter().product()];
    for (flat, &value) in x.data.iter().enumerate() {
        let index = unflattened(flat, &x.shape);
        let place = index.iter().zip(&kept).fold(0, |flat, (&at, &size)| flat * size + if size == 1 { 0 } else { at });
        groups[place].push(value);
    }
    Tensor::new(shape, groups.iter().map(|group| combine(group)).collect())
}

fn affine(mut x: Tensor, inputs: &[&Tensor], scale: bool, shift: bool, place: impl Fn(usize) -> usize) -> Tensor {
    let mut others = inputs[1..].iter();
    if scale {
        let scale = others.next().unwrap();
        x.data.iter_mut().enumerate().for_each(|(flat, value)| *value *= scale.data[place(flat)]);
    }
    if shift {
        let shift = others.next().unwrap();
        x.data.iter_mut().enumerate().for_each(|(flat, value)| *value += shift.data[place(flat)]);
    }
    x
}

fn normalised(x: &Tensor, each: usize, epsilon: f64) -> Tensor {
    let mut data = Vec::with_capacity(x.data.len());
    for part in x.data.chunks(each) {
        let mean = part.iter().sum::<f64>() / each as f64;
        let variance = part.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / each as f64;
        data.extend(part.iter().map(|value| (value - mean) / (variance + epsilon).sqrt()));
    }
    Tensor::new(&x.shape, data)
}

fn matmul(one: &Tensor, two: &Tensor, shape: &[usize]) -> Tensor {
    let inner = one.shape[one.shape.len() - 1];
    Tensor::build(shape, |index| {
        let [leading @ .., row, column] = index else { unreachable!("matrices have two dimensions") };
        let terms = (0..inner).map(|at| {
            one.broadcast(&[leading, &[*row, at]].concat()) * two.broadcast(&[leading, &[at, *column]].concat())
        });
        terms.sum()
    })
}

fn softmax(x: &Tensor, dimension: usize) -> Tensor {
    let size = x.shape[dimension];
    Tensor::build(&x.shape, |index| {
        let row = |at: usize| {
            let mut index = index.to_vec();
            index[dimension] = at;
            x.at(&index)
        };
        let largest = (0..size).map(row).fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return 0.0;
        }
        (x.at(index) - largest).exp() / (0..size).map(|at| (row(at) - largest).exp()).sum::<f64>()
    })
}

fn attention(
    inputs: &[&Tensor],
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f64>,
    shape: &[usize],
) -> Tensor {
    let rank = shape.len();
    let mut scores_shape = shape.to_vec();
    scores_shape[rank - 1] = inputs[1].shape[rank - 2];
    let width = inputs[0].shape[rank - 1];
    let scale = scale.unwrap_or((width as f64).sqrt().recip());
    let scores = Tensor::build(&scores_shape, |index| {
        let [leading @ .., query, key] = index else { unreachable!("matrices have two dimensions") };
        if is_causal && key > query {
            return f64::NEG_INFINITY;
        }
        let product: f64 = (0..width)
            .map(|at| inputs[0].at(&[leading, &[*query, at]].concat()) * inputs[1].at(&[leading, &[*key, at]].concat()))
            .sum();
        product * scale + mask.map_or(0.0, |mask| mask.broadcast(index))
    });
    matmul(&softmax(&scores, rank - 1), inputs[2], shape)
}
