//! What a policy says about one destination, and why: for `vmm policy explain` and `vmm policy test`.
//!
//! Answers come from the evaluator that the network stack asks, with the host's own addresses; nothing is connected to
//! and no name is asked of anybody unless the caller resolved it.

mod answer;
mod question;
mod remedy;
mod table;

pub use answer::{Answer, Judged};
pub use question::{BadQuestion, Question};
pub use table::{Expectation, TestTable};

#[cfg(test)]
mod tests;
