//! Layers that few networks have compute what their definitions say: see [`super::operators`].

use tch::{Kind, Tensor};

use super::operators::{assert_computes, softmax};
use super::programs::{self, B, flag, int, ints, tensor};

#[test]
fn consecutive_heads_of_queries_share_keys_and_values() {
    let build = |program: &mut programs::Network| {
        let all = [("self", tensor("x")), ("shape", ints(&[-1, 6, 4, 8]))];
        program.node("reshape.default", "q", &all, &[B, 6, 4, 8]);
        let some = [("self", tensor("q")), ("dim", int(1)), ("start", int(0)), ("end", int(2))];
        program.node("slice.Tensor", "k", &some, &[B, 2, 4, 8]);
        let others = [("self", tensor("q")), ("dim", int(1)), ("start", int(3)), ("end", int(6))];
        program.node("slice.Tensor", "v", &others, &[B, 3, 4, 8]);
        let inputs = [
            ("query", tensor("q")),
            ("key", tensor("k")),
            ("value", tensor("v")),
            ("is_causal", flag(false)),
            ("enable_gqa", flag(true)),
        ];
        program.node("scaled_dot_product_attention.default", "y", &inputs, &[B, 6, 4, 8]);
        ("y", vec![B, 6, 4, 8])
    };
    assert_computes("shared keys", false, &build, &|x, _| {
        let query = x.reshape([4, 6, 4, 8]);
        let key = query.index_select(1, &Tensor::from_slice(&[0_i64, 0, 0, 1, 1, 1]));
        let value = query.index_select(1, &Tensor::from_slice(&[3_i64, 3, 4, 4, 5, 5]));
        let products = query.unsqueeze(3) * key.unsqueeze(2);
        let scores = products.sum_dim_intlist([4_i64].as_slice(), false, None::<Kind>) / 8_f64.sqrt();
        (softmax(&scores, 3).unsqueeze(4) * value.unsqueeze(2)).sum_dim_intlist([3_i64].as_slice(), false, None::<Kind>)
    });
}
