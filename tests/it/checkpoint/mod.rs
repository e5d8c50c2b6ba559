//! Checkpoint files.

mod hostile;
mod safetensors;
mod torch;
