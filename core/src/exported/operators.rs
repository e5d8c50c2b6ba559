//! Which of ATen's operators are read, and by what.

use super::arguments::Arguments;
use super::comparisons::{self, Logic};
use super::einsum;
use super::error::OrFault;
use super::functions;
use super::layers;
use super::lowering::{Lowering, LoweringPlan, Source};
use super::matrices::{self, Triangle};
use super::op::{Activation, Arithmetic, Comparison, Op};
use super::pooling;
use super::products;
use super::resampling;
use super::reshapes;
use super::resizing::{self, ResamplingKernel};
use super::sums::{self, Spread};

/// ATen's operators that overwrite their first argument.
const IN_PLACE: [&str; 37] = [
    "add_.Tensor",
    "sub_.Tensor",
    "mul_.Tensor",
    "div_.Tensor",
    "addcmul_.default",
    "relu_.default",
    "relu6_.default",
    "hardtanh_.default",
    "hardswish_.default",
    "hardsigmoid_.default",
    "silu_.default",
    "sigmoid_.default",
    "tanh_.default",
    "leaky_relu_.default",
    "rrelu_.default",
    "elu_.default",
    "celu_.default",
    "selu_.default",
    "mish_.default",
    "gelu_.default",
    "clamp_.default",
    "clamp_min_.default",
    "clamp_max_.default",
    "threshold_.default",
    "neg_.default",
    "abs_.default",
    "exp_.default",
    "sqrt_.default",
    "square_.default",
    "dropout_.default",
    "feature_dropout_.default",
    "bernoulli_.float",
    "masked_fill_.Scalar",
    "fill_.Scalar",
    "fill_.Tensor",
    "copy_.default",
    "detach_.default",
];

/// ATen's second names of operators, and the first ones.
const ALIASES: [(&str, &str); 19] = [
    ("multiply", "mul"),
    ("subtract", "sub"),
    ("divide", "div"),
    ("true_divide", "div"),
    ("greater", "gt"),
    ("greater_equal", "ge"),
    ("less", "lt"),
    ("less_equal", "le"),
    ("not_equal", "ne"),
    ("absolute", "abs"),
    ("negative", "neg"),
    ("moveaxis", "movedim"),
    ("linalg_matmul", "matmul"),
    ("special_expit", "sigmoid"),
    ("special_erf", "erf"),
    ("special_log1p", "log1p"),
    ("special_expm1", "expm1"),
    ("special_exp2", "exp2"),
    ("special_logsumexp", "logsumexp"),
];

/// The first name of an operator.
fn first_name(name: &str) -> String {
    let (own, overload) = name.split_once('.').unwrap_or((name, ""));
    let plain = own.strip_suffix('_').unwrap_or(own);
    let end = if plain == own { "" } else { "_" };
    match ALIASES.iter().find(|(alias, _)| *alias == plain) {
        Some((_, first)) => format!("{first}{end}.{overload}"),
        None => name.to_owned(),
    }
}

/// The name of an operator without its package, in its form that does not overwrite, and whether it overwrites.
pub(super) fn plain_name(target: &str) -> Option<(String, bool)> {
    let name = first_name(target.strip_prefix("torch.ops.aten.")?);
    match IN_PLACE.contains(&name.as_str()) {
        true => Some((name.replacen("_.", ".", 1), true)),
        // Python's own operators, such as `__and__`, overwrite nothing.
        false if name.contains("_.") && !name.starts_with("__") => None,
        false => Some((name, false)),
    }
}

/// Reads a node's arguments. `None` if the operator, named as by [`plain_name`], is not supported.
pub(super) fn read(name: &str, mut arguments: Arguments<'_>) -> Option<OrFault<LoweringPlan>> {
    if let Some(operator) = one(name) {
        let op = operator(&mut arguments);
        return Some(op.and_then(|op| {
            let inputs: Vec<Source> = arguments.tensors.iter().map(|&id| Source::Value(id)).collect();
            let mut lowering = Lowering::new(arguments);
            let results = lowering.split(op, &inputs)?;
            lowering.finish(results)
        }));
    }
    let operator = several(name)?;
    let mut lowering = Lowering::new(arguments);
    Some(operator(&mut lowering).and_then(|results| lowering.finish(results)))
}

type One = fn(&mut Arguments<'_>) -> OrFault<Op>;

/// The operators that are one operation.
fn one(name: &str) -> Option<One> {
    use Activation::{Abs, Cos, Erf, Exp, Hardsigmoid, Hardswish, Log, Power, Relu, Sigmoid, Sign, Silu, Sin, Tanh};
    let operator: One = match name {
        "conv2d.default" => layers::convolution,
        "conv_transpose2d.input" => layers::transposed_convolution,
        "layer_norm.default" => layers::layer_norm,
        "group_norm.default" => layers::group_norm,
        "linear.default" => layers::linear,
        "relu.default" => |arguments| functions::activation(arguments, Relu),
        "relu6.default" => |arguments| functions::activation(arguments, Activation::Clamp { low: 0.0, high: 6.0 }),
        "hardtanh.default" => |arguments| functions::clamp(arguments, ["min_val", "max_val"], [-1.0, 1.0]),
        "clamp.default" | "clip.default" => functions::clamp_optional,
        "clamp_min.default" => |arguments| functions::clamp(arguments, ["min", "max"], [f64::NAN, f64::INFINITY]),
        "clamp_max.default" => |arguments| functions::clamp(arguments, ["min", "max"], [f64::NEG_INFINITY, f64::NAN]),
        "hardswish.default" => |arguments| functions::activation(arguments, Hardswish),
        "hardsigmoid.default" => |arguments| functions::activation(arguments, Hardsigmoid),
        "silu.default" => |arguments| functions::activation(arguments, Silu),
        "sigmoid.default" => |arguments| functions::activation(arguments, Sigmoid),
        "tanh.default" => |arguments| functions::activation(arguments, Tanh),
        "gelu.default" => functions::gelu,
        "leaky_relu.default" => functions::leaky_relu,
        "rrelu.default" => functions::randomised_leaky_relu,
        "elu.default" => functions::elu,
        "celu.default" => functions::celu,
        "selu.default" => functions::selu,
        "softplus.default" => functions::softplus,
        "prelu.default" => functions::prelu,
        "exp.default" => |arguments| functions::activation(arguments, Exp),
        "log.default" => |arguments| functions::activation(arguments, Log),
        "abs.default" => |arguments| functions::activation(arguments, Abs),
        "erf.default" => |arguments| functions::activation(arguments, Erf),
        "log1p.default" => |arguments| functions::activation(arguments, Activation::LogOfOnePlus),
        "expm1.default" => |arguments| functions::activation(arguments, Activation::ExpMinusOne),
        "sign.default" | "sgn.default" => |arguments| functions::activation(arguments, Sign),
        "sin.default" => |arguments| functions::activation(arguments, Sin),
        "cos.default" => |arguments| functions::activation(arguments, Cos),
        "sqrt.default" => |arguments| functions::activation(arguments, Power { exponent: 0.5 }),
        "rsqrt.default" => |arguments| functions::activation(arguments, Power { exponent: -0.5 }),
        "reciprocal.default" => |arguments| functions::activation(arguments, Power { exponent: -1.0 }),
        "square.default" => |arguments| functions::activation(arguments, Power { exponent: 2.0 }),
        "pow.Tensor_Scalar" => functions::power,
        "pow.Tensor_Tensor" => functions::power_of_tensors,
        "neg.default" => functions::negative,
        "softmax.int" | "special_softmax.default" => functions::softmax,
        "log_softmax.int" | "special_log_softmax.default" => functions::log_softmax,
        "div.Tensor" | "div.Scalar" => |arguments| functions::arithmetic(arguments, Arithmetic::Divide),
        "maximum.default" | "max.other" => |arguments| functions::arithmetic(arguments, Arithmetic::Maximum),
        "minimum.default" | "min.other" => |arguments| functions::arithmetic(arguments, Arithmetic::Minimum),
        "lt.Scalar" | "lt.Tensor" => |arguments| comparisons::compare(arguments, Comparison::Less),
        "le.Scalar" | "le.Tensor" => |arguments| comparisons::compare(arguments, Comparison::LessOrEqual),
        "gt.Scalar" | "gt.Tensor" => |arguments| comparisons::compare(arguments, Comparison::Greater),
        "ge.Scalar" | "ge.Tensor" => |arguments| comparisons::compare(arguments, Comparison::GreaterOrEqual),
        "eq.Scalar" | "eq.Tensor" => |arguments| comparisons::compare(arguments, Comparison::Equal),
        "ne.Scalar" | "ne.Tensor" => |arguments| comparisons::compare(arguments, Comparison::NotEqual),
        "where.self" => functions::choose,
        "cat.default" | "concat.default" | "concatenate.default" => reshapes::concat,
        "hstack.default" => reshapes::concat_columns,
        "max_pool2d.default" => pooling::max_pool,
        "avg_pool2d.default" => pooling::average_pool,
        "adaptive_avg_pool2d.default" | "_adaptive_avg_pool2d.default" => pooling::adaptive_average_pool,
        "mean.dim" | "mean.default" => sums::mean,
        "amax.default" | "max.default" => sums::largest,
        "logsumexp.default" => sums::log_sum_exp,
        "cumsum.default" => sums::cumulative_sum,
        "dropout.default" => functions::dropout,
        "contiguous.default" | "clone.default" | "alias.default" | "positive.default" => functions::identity,
        "empty.memory_format" => functions::empty,
        "new_empty.default" => functions::new_empty,
        "bernoulli.float" => functions::bernoulli,
        _ => return shape(name),
    };
    Some(operator)
}

/// Those that move elements and compute nothing.
fn shape(name: &str) -> Option<One> {
    let operator: One = match name {
        "view.default" => |arguments| reshapes::reshape(arguments, "size"),
        "reshape.default" => |arguments| reshapes::reshape(arguments, "shape"),
        "view_as.default" | "reshape_as.default" => reshapes::reshape_as,
        "flatten.using_ints" => reshapes::flatten,
        "ravel.default" => reshapes::flatten,
        "unflatten.int" => reshapes::unflatten,
        "squeeze.dim" | "squeeze.dims" | "squeeze.default" => reshapes::squeeze,
        "unsqueeze.default" => reshapes::unsqueeze,
        "expand.default" | "broadcast_to.default" => reshapes::expand,
        "expand_as.default" => reshapes::expand_as,
        "permute.default" => reshapes::permute,
        "transpose.int" | "swapdims.default" => |arguments| reshapes::transpose(arguments, ["dim0", "dim1"]),
        "swapaxes.default" => |arguments| reshapes::transpose(arguments, ["axis0", "axis1"]),
        "t.default" | "mT.default" | "mH.default" | "adjoint.default" => reshapes::matrix_transpose,
        "numpy_T.default" => reshapes::reverse,
        "movedim.int" | "movedim.intlist" => reshapes::move_dimensions,
        "slice.Tensor" => reshapes::slice,
        "narrow.default" => reshapes::narrow,
        "select.int" => reshapes::select,
        "chunk.default" | "unsafe_chunk.default" => reshapes::chunk,
        "split.Tensor" | "unsafe_split.Tensor" => reshapes::split,
        "split_with_sizes.default" => |arguments| reshapes::split_with_sizes(arguments, "split_sizes"),
        "split.sizes" => |arguments| reshapes::split_with_sizes(arguments, "split_size"),
        "tensor_split.sections" => reshapes::tensor_split,
        "tensor_split.indices" => reshapes::tensor_split_at,
        "unbind.int" => reshapes::unbind,
        "roll.default" => reshapes::roll,
        _ => return None,
    };
    Some(operator)
}

type Several = fn(&mut Lowering<'_>) -> OrFault<Vec<Source>>;

/// The operators that are several operations.
fn several(name: &str) -> Option<Several> {
    let operator: Several = match name {
        "add.Tensor" | "add.Scalar" => |lowering| products::scaled(lowering, Arithmetic::Add),
        "sub.Tensor" | "sub.Scalar" => |lowering| products::scaled(lowering, Arithmetic::Subtract),
        "mul.Tensor" | "mul.Scalar" => comparisons::multiply,
        "to.dtype" | "to.dtype_layout" | "to.device" | "to.other" | "type_as.default" | "_to_copy.default" => {
            comparisons::converted
        }
        "logical_not.default" | "bitwise_not.default" => |lowering| comparisons::logic(lowering, Logic::Not),
        "logical_and.default" | "bitwise_and.Tensor" | "__and__.Tensor" => {
            |lowering| comparisons::logic(lowering, Logic::And)
        }
        "logical_or.default" | "bitwise_or.Tensor" | "__or__.Tensor" => {
            |lowering| comparisons::logic(lowering, Logic::Or)
        }
        "logical_xor.default" | "bitwise_xor.Tensor" | "__xor__.Tensor" => {
            |lowering| comparisons::logic(lowering, Logic::Xor)
        }
        "any.default" | "any.dim" | "any.dims" => |lowering| comparisons::over(lowering, Logic::Or),
        "all.default" | "all.dim" | "all.dims" => |lowering| comparisons::over(lowering, Logic::And),
        "clamp.Tensor" | "clamp_min.Tensor" | "clamp_max.Tensor" => comparisons::clamp,
        "threshold.default" => comparisons::threshold,
        "hardshrink.default" => comparisons::hard_shrink,
        "softshrink.default" => comparisons::soft_shrink,
        "rsub.Scalar" | "rsub.Tensor" => products::subtract_from,
        "addcmul.default" => |lowering| products::add_product(lowering, Arithmetic::Multiply),
        "addcdiv.default" => |lowering| products::add_product(lowering, Arithmetic::Divide),
        "addmm.default" => |lowering| products::add_matrix_product(lowering, ["mat1", "mat2"]),
        "baddbmm.default" => |lowering| products::add_matrix_product(lowering, ["batch1", "batch2"]),
        "einsum.default" => einsum::read,
        "lerp.Scalar" | "lerp.Tensor" => products::interpolate,
        "pow.Scalar" => products::power_of_number,
        "exp2.default" => products::power_of_two,
        "log2.default" => |lowering| products::logarithm(lowering, 2.0),
        "log10.default" => |lowering| products::logarithm(lowering, 10.0),
        "mish.default" => products::mish,
        "log_sigmoid.default" => products::log_sigmoid,
        "glu.default" => products::gated,
        "masked_fill.Scalar" | "where.ScalarOther" | "where.ScalarSelf" | "where.Scalar" | "masked_fill.Tensor" => {
            products::masked
        }
        "feature_dropout.default" => products::feature_dropout,
        "fill.Scalar" => products::fill,
        "matmul.default" => |lowering| layers::matmul(lowering, "other"),
        "mm.default" | "bmm.default" => |lowering| layers::matmul(lowering, "mat2"),
        "mv.default" => |lowering| layers::matmul(lowering, "vec"),
        "dot.default" => |lowering| layers::matmul(lowering, "tensor"),
        "outer.default" | "ger.default" => matrices::outer,
        "tensordot.default" => matrices::sum_of_products,
        "inner.default" => matrices::inner,
        "linalg_vecdot.default" => sums::products_of_vectors,
        "bilinear.default" => matrices::bilinear,
        "tril.default" => |lowering| matrices::triangle(lowering, Triangle::Lower),
        "triu.default" => |lowering| matrices::triangle(lowering, Triangle::Upper),
        "scaled_dot_product_attention.default" => layers::attention,
        "batch_norm.default" => layers::batch_norm,
        "instance_norm.default" => layers::instance_norm,
        "rms_norm.default" => sums::rms_norm,
        "_weight_norm.default" => sums::weight_norm,
        "conv2d.padding" => layers::convolution_by_name,
        "conv1d.default" | "conv1d.padding" => layers::convolution_1d,
        "conv_transpose1d.default" => layers::transposed_convolution_1d,
        "sum.dim_IntList" | "sum.default" => sums::sum,
        "prod.default" => sums::product_of_all,
        "prod.dim_int" => sums::product,
        "max.dim" => sums::largest_of_one,
        "amin.default" | "min.default" => sums::smallest,
        "min.dim" => sums::smallest_of_one,
        "var.correction" | "var.dim" | "var.default" => |lowering| sums::variance(lowering, Spread::Variance, false),
        "std.correction" | "std.dim" | "std.default" => |lowering| sums::variance(lowering, Spread::Deviation, false),
        "var_mean.correction" | "var_mean.dim" => |lowering| sums::variance(lowering, Spread::Variance, true),
        "std_mean.correction" | "std_mean.dim" => |lowering| sums::variance(lowering, Spread::Deviation, true),
        "linalg_vector_norm.default" => |lowering| sums::norm(lowering, "ord"),
        "norm.ScalarOpt_dim" => |lowering| sums::norm(lowering, "p"),
        "linalg_norm.default" => sums::norm_of_any,
        "cosine_similarity.default" => sums::cosine_similarity,
        "cdist.default" => sums::distances,
        "pairwise_distance.default" => sums::pairwise_distance,
        "max_pool2d_with_indices.default" => pooling::max_pool_with_places,
        "adaptive_max_pool2d.default" => pooling::adaptive_max_pool,
        "adaptive_max_pool1d.default" => pooling::adaptive_max_pool_1d,
        "adaptive_avg_pool1d.default" => pooling::adaptive_average_pool_1d,
        "avg_pool1d.default" => |lowering| pooling::pool_1d(lowering, pooling::PoolingKind::Average),
        "avg_pool3d.default" => pooling::average_pool_3d,
        "max_pool1d.default" => |lowering| pooling::pool_1d(lowering, pooling::PoolingKind::Max),
        "stack.default" => resampling::stack,
        "repeat.default" => |lowering| resampling::repeat(lowering, "repeats"),
        "tile.default" => |lowering| resampling::repeat(lowering, "dims"),
        "repeat_interleave.self_int" => resampling::repeat_each,
        "meshgrid.default" | "meshgrid.indexing" => resampling::grid,
        "flip.default" => resampling::flip,
        "pad.default" => resampling::pad,
        "index.Tensor" => resampling::index,
        "index_select.default" => resampling::index_select,
        "embedding.default" => resampling::embedding,
        "unfold.default" => resampling::unfold,
        "im2col.default" => resampling::columns,
        "col2im.default" => resampling::map_of_columns,
        "pixel_shuffle.default" => resampling::pixel_shuffle,
        "pixel_unshuffle.default" => resampling::pixel_unshuffle,
        "channel_shuffle.default" | "native_channel_shuffle.default" => resampling::channel_shuffle,
        _ => return resized(name),
    };
    Some(operator)
}

/// Those that resize rows and maps.
fn resized(name: &str) -> Option<Several> {
    use ResamplingKernel::{Cubic, Linear, Nearest, NearestExact};
    let operator: Several = match name {
        "upsample_nearest1d.vec" => |lowering| resizing::resize(lowering, Nearest, 1),
        "upsample_nearest2d.vec" => |lowering| resizing::resize(lowering, Nearest, 2),
        "_upsample_nearest_exact1d.vec" => |lowering| resizing::resize(lowering, NearestExact, 1),
        "_upsample_nearest_exact2d.vec" => |lowering| resizing::resize(lowering, NearestExact, 2),
        "upsample_linear1d.vec" => |lowering| resizing::resize(lowering, Linear { antialias: false }, 1),
        "upsample_bilinear2d.vec" => |lowering| resizing::resize(lowering, Linear { antialias: false }, 2),
        "_upsample_bilinear2d_aa.vec" => |lowering| resizing::resize(lowering, Linear { antialias: true }, 2),
        "upsample_bicubic2d.vec" => |lowering| resizing::resize(lowering, Cubic { antialias: false }, 2),
        "_upsample_bicubic2d_aa.vec" => |lowering| resizing::resize(lowering, Cubic { antialias: true }, 2),
        _ => return None,
    };
    Some(operator)
}
