//! Opens flows at the proxy, or around it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use policy::Name;

use super::connect::Connect;
use super::settings::{Proxy, Server};
use crate::dialer::{Dialed, Dialer};

/// How long an address of a proxy is believed; the next flow after that asks again, and still uses the old one.
const FRESH: Duration = Duration::from_secs(60);

/// A dialer in front of another one.
#[derive(Debug)]
pub(crate) struct ProxyDialer {
    inner: Box<dyn Dialer>,
    proxy: Proxy,
    plain: Place,
    secure: Place,
}

/// Where a proxy is. Its name is looked up on a thread, since that may take a while.
#[derive(Debug, Default)]
struct Place {
    address: Option<SocketAddr>,
    asked: Option<Instant>,
    answer: Option<Receiver<Option<SocketAddr>>>,
}

impl ProxyDialer {
    pub(crate) fn new(inner: Box<dyn Dialer>, proxy: Proxy) -> Self {
        let (mut plain, mut secure) = (Place::default(), Place::default());
        plain.refresh(&proxy.plain);
        secure.refresh(&proxy.secure);
        Self { inner, proxy, plain, secure }
    }
}

impl Place {
    /// The address as far as it is known.
    fn current(&mut self, server: &Server) -> Option<SocketAddr> {
        self.refresh(server);
        if let Some(Ok(found)) = self.answer.as_ref().map(Receiver::try_recv) {
            self.answer = None;
            self.address = found.or(self.address);
        }
        self.address
    }

    fn refresh(&mut self, server: &Server) {
        if let Ok(address) = server.host.parse() {
            self.address = Some(SocketAddr::new(address, server.port));
            return;
        }
        if self.answer.is_some() || self.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        self.asked = Some(Instant::now());
        let (sender, receiver) = channel();
        let (host, port) = (server.host.clone(), server.port);
        let thread = std::thread::Builder::new().name("proxy-lookup".to_owned()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut found| found.next());
            // Whoever asked may have gone.
            let _ = sender.send(found);
        });
        match thread {
            Ok(_) => self.answer = Some(receiver),
            Err(error) => tracing::warn!(%error, "Proxy of the host cannot be looked up"),
        }
    }
}

impl Dialer for ProxyDialer {
    fn gives_tcp(&self) -> bool {
        self.inner.gives_tcp()
    }

    fn ways(&self) -> Vec<String> {
        self.proxy.describe()
    }

    fn tcp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        self.inner.tcp(remote)
    }

    fn udp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        self.inner.udp(remote)
    }

    fn tcp_flow(&mut self, remote: SocketAddr, names: &[Name]) -> io::Result<Dialed> {
        if self.proxy.bypass.matches(remote, names) {
            return self.inner.tcp_flow(remote, names);
        }
        let (server, place) = match remote.port() {
            80 => (&self.proxy.plain, &mut self.plain),
            _ => (&self.proxy.secure, &mut self.secure),
        };
        // Until its name is looked up the guest's own SYN timer has the patience for it.
        let address = place.current(server).ok_or(io::ErrorKind::TimedOut)?;
        let socket = self.inner.tcp(address)?;
        Ok(Dialed { socket, greeting: Some(Box::new(Connect::new(server, remote, names.first()))) })
    }

    fn udp_flow(&mut self, remote: SocketAddr, names: &[Name]) -> io::Result<OwnedFd> {
        if self.proxy.bypass.matches(remote, names) {
            return self.inner.udp_flow(remote, names);
        }
        Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "The proxy of the host carries no datagrams"))
    }
}
