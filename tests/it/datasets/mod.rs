//! Promise: somebody without access to the server's disk can upload a data set, see how the server reads it, and train
//! on it on any worker; and no archive does anything but become a data set.

mod bucket;
mod cache;
mod hostile;
mod life;
mod look;
mod pieces;
mod quota;
mod shards;
mod slow;
mod training;
mod unfinished;
mod zips;
