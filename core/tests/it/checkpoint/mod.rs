//! Checkpoint files.

mod hostile;
mod mutations;
mod naming;
mod neighbours;
mod programs;
mod safetensors;
mod soundness;
mod torch;
