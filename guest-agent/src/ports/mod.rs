//! The guest's ports as the host sees them: what listens where, and a way to what listens on loopback only.
//!
//! The host decides what is published; the agent says what there is ([`watch`]) and passes connections on to 127.0.0.1
//! and ::1 ([`relay`]). A relay has a port of its own: it never takes one that a program of the guest may want, needs
//! no packet filter that the guest's own rules could replace, and reaches ::1, which the kernel lets no packet of a
//! link do.

mod diag;
pub mod relay;
pub mod watch;
