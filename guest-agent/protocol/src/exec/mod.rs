//! An exec connection: one command, from `Exec` to `Exited`.
//!
//! ```text
//! host                                       agent
//!   Exec                                -->
//!                                       <--  Started | Refused
//!   (Data | Credit | Signal | Resize)*  -->
//!   CloseStdin                          -->
//!                                       <--  (Data | Credit)*
//!                                       <--  Closed{stdout}  Closed{stderr}  Exited
//! ```
//! Each stream starts with [`WINDOW`](crate::credit::WINDOW) bytes of credit. The agent sends `Exited` after the last
//! data of both streams; on a terminal everything is `Stdout`. When the host closes the connection before `Exited`,
//! the command's session gets SIGHUP, and SIGKILL if it stays.

mod command;
mod message;
mod status;

pub use command::{Argv, Exec, MAX_ARGS, MAX_ENV, MAX_EXEC, Terminal, User, WindowSize};
pub use message::{DATA_HEADER_LEN, MAX_DATA, Stream, ToGuest, ToHost, data_header};
pub use status::{MAX_SIGNAL, Refusal, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND, STATUS_OURS, Signal, Status};
