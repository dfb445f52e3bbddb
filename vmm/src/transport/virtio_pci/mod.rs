//! A virtio device as a PCI function (virtio 1.2, section 4.1): modern interface only, interrupts by MSI-X only.

mod capability;
#[cfg(test)]
pub(super) mod fake;
mod function;
mod notifier;
mod queue;
mod registers;
#[cfg(test)]
mod tests;

pub(crate) use function::VirtioFunction;
