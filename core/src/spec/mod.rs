//! The job specification: what a user asks for, with the published recipe as its defaults.

mod reader;
mod request;
mod resolved;
mod teacher_cache;
