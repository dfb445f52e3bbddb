//! The passthrough file system of fuse-backend-rs.

use std::path::Path;

use devices::fs::test_kit::Backend;
use fuse_backend_rs::passthrough::{Config, PassthroughFs};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use virtio::Ram;
use virtio::test_kit::{DriverQueue, Used};

use super::VALID;
use super::queue::{Memory, Requests};

/// The server and its queue.
pub struct Server {
    server: fuse_backend_rs::api::server::Server<PassthroughFs>,
    requests: Requests<()>,
}

impl Server {
    /// Serves a folder.
    pub fn new(share: &Path, ram: &Ram, driver: &DriverQueue) -> Self {
        let config = Config {
            entry_timeout: VALID,
            attr_timeout: VALID,
            root_dir: share.to_str().expect("a path of text").to_owned(),
            xattr: true,
            ..Config::default()
        };
        let fs = PassthroughFs::new(config).expect("a file system");
        fs.import().expect("a folder");
        Self { server: fuse_backend_rs::api::server::Server::new(fs), requests: Requests::new(ram, driver) }
    }
}

impl Backend for Server {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        let server = &self.server;
        self.requests.serve(|memory, chain| {
            let reader = Reader::from_descriptor_chain::<Memory<()>>(memory, chain.clone()).expect("a chain in memory");
            let writer = VirtioFsWriter::new::<Memory<()>>(memory, chain).expect("a chain in memory");
            server.handle_message(reader, writer.into(), None, None).expect("an answer")
        });
        driver.used().expect("an answer")
    }
}
