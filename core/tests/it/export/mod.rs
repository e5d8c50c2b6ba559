//! Students in other formats.

mod bundle;
mod cases;
mod comparison_cases;
mod evaluation_mode;
mod functions;
mod layer_cases;
mod onnx;
mod operators;
mod parity;
mod pt2;
mod reference;
mod runtime;
mod students;
mod windows;
