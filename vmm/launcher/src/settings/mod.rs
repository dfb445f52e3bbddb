//! The user's settings: `config.toml`, and what a project's own `vmm.toml` may narrow.
//!
//! The command line and the environment come before the settings file, a `[project."PATH"]` table before the file's top
//! level, and of tables about folders above one another the closest to the project. The settings file is the user's and
//! trusted; `vmm.toml` lies in the project, where the guest writes, and can only take away (`narrow`).

mod error;
mod file;
mod narrow;
mod network;
mod ports;
mod read;
mod size;

pub use error::SettingsError;
pub use file::Settings;
pub use network::{Effective, NetworkLayer, Origin, Sourced};
pub use ports::Ports;
pub(crate) use read::Source;
pub use size::parse_size;

#[cfg(test)]
mod tests;
