//! A hypervisor that only writes down what it was told.

use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::transport::{Hypervisor, Message, Vector};

/// Records doorbells and failures; clones share what they recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeHypervisor {
    doorbells: Arc<Mutex<Vec<u64>>>,
    failures: Arc<Mutex<Vec<String>>>,
    vectors: Arc<Mutex<Vec<FakeVector>>>,
}

impl FakeHypervisor {
    /// Addresses with a doorbell now.
    pub(crate) fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().clone()
    }

    /// Devices whose host side failed.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    /// The vectors made so far.
    pub(crate) fn vectors(&self) -> Vec<FakeVector> {
        self.vectors.lock().unwrap().clone()
    }
}

impl Hypervisor for FakeHypervisor {
    fn add_doorbell(&self, address: u64, _: &EventFd) -> io::Result<()> {
        self.doorbells.lock().unwrap().push(address);
        Ok(())
    }

    fn remove_doorbell(&self, address: u64, _: &EventFd) -> io::Result<()> {
        self.doorbells.lock().unwrap().retain(|doorbell| *doorbell != address);
        Ok(())
    }

    fn vector(&self) -> io::Result<Box<dyn Vector>> {
        let vector = FakeVector::default();
        self.vectors.lock().unwrap().push(vector.clone());
        Ok(Box::new(vector))
    }

    fn device_failed(&self, label: &str, _: &io::Error) {
        self.failures.lock().unwrap().push(label.to_owned());
    }
}

/// A vector that records what it sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeVector {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    message: Message,
    programs: usize,
    sent: Vec<Message>,
}

impl FakeVector {
    /// Messages sent so far.
    pub(crate) fn sent(&self) -> Vec<Message> {
        self.inner.lock().unwrap().sent.clone()
    }

    /// How often it was programmed.
    pub(crate) fn programs(&self) -> usize {
        self.inner.lock().unwrap().programs
    }
}

impl Vector for FakeVector {
    fn program(&mut self, message: Message) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap();
        (inner.message, inner.programs) = (message, inner.programs + 1);
        Ok(())
    }

    fn raise(&self) {
        let mut inner = self.inner.lock().unwrap();
        let message = inner.message;
        inner.sent.push(message);
    }
}
