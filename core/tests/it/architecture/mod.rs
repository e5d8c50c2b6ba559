//! The descriptions of networks.

mod fit;
mod fixture;
