//! Jobs in PostgreSQL: the only SQL of the project.

pub mod state;
