//! Checkpoint files.

mod hostile;
mod mutations;
mod safetensors;
mod torch;
