//! DNS messages (RFC 1035, 6891, 9460): the guest's questions, the resolvers' answers. Neither side is trusted.

mod answer;
mod numbers;
mod query;
mod reader;
mod record;
#[cfg(test)]
mod tests;

pub(super) use answer::Answer;
pub(super) use numbers::Rcode;
pub(super) use query::{Query, parse_query};
