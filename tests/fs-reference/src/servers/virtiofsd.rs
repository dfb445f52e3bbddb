//! virtiofsd's passthrough file system, set up as its program does it.

use std::path::Path;

use devices::fs::test_kit::Backend;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio::Ram;
use virtio::test_kit::{DriverQueue, Used};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::passthrough::{Config, PassthroughFs};

use super::VALID;
use super::queue::Requests;

/// The server and its queue.
pub struct Server {
    server: virtiofsd::server::Server<PassthroughFs>,
    requests: Requests<BitmapMmapRegion>,
}

impl Server {
    /// Serves a folder.
    pub fn new(share: &Path, ram: &Ram, driver: &DriverQueue) -> Self {
        let config = Config {
            entry_timeout: VALID,
            attr_timeout: VALID,
            root_dir: share.to_str().expect("a path of text").to_owned(),
            xattr: true,
            announce_submounts: true,
            ..Config::default()
        };
        let fs = PassthroughFs::new(config).expect("a file system");
        Self { server: virtiofsd::server::Server::new(fs), requests: Requests::new(ram, driver) }
    }
}

impl Backend for Server {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        let server = &self.server;
        self.requests.serve(|memory, chain| {
            let reader = Reader::new(memory, chain.clone()).expect("a chain in memory");
            let writer = Writer::new(memory, chain).expect("a chain in memory");
            server.handle_message(reader, writer, None::<&mut ()>).expect("an answer")
        });
        driver.used().expect("an answer")
    }
}
