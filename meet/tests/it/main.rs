//! Processes that meet: real ones, started by exec and killed.

mod heirs;
mod hostile;
mod names;
mod passing;
mod player;
mod store;
