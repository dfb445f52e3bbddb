//! What the host and the guest agent say to each other: types and framing.
#![forbid(unsafe_code)]
