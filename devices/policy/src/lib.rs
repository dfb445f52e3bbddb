//! Egress rules and a pure evaluator: no I/O, no clock.
#![forbid(unsafe_code)]
