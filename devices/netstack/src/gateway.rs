//! The heart: frames, sockets and timers come in here and go to whom they belong. Run by one thread at a time.

mod commands;
mod frames;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use virtio::RateLimit;
use virtio::frame::{MAX_FRAME, Port, Stack, Turn};

use crate::audit::Audit;
use crate::config::NetConfig;
use crate::context::Context;
use crate::dns::{Origin, Pins, Resolver};
use crate::drops::Drops;
use crate::echo::EchoTable;
use crate::handle::Command;
use crate::host::HostWatch;
use crate::inspect::Budget;
use crate::poller::{Owner, Poller, Ready, Token};
use crate::proxy::ProxyDialer;
use crate::publish::{Bound, Ports};
use crate::reassembly::Reassembly;
use crate::router::Router;
use crate::tcp::{Stalled, TcpTable};
use crate::timers::{Alarm, Timers};
use crate::udp::{UdpTable, send_datagram};
use crate::uplink::Uplink;

/// Bytes passed over in one call. Most kernels do not even touch what is passed over.
const MAX_SCRATCH: usize = 1 << 20;

/// Everything the thread owns.
pub(crate) struct Gateway {
    context: Context,
    tcp: TcpTable,
    udp: UdpTable,
    resolver: Resolver,
    host: HostWatch,
    echo: EchoTable,
    router: Router,
    reassembly: Reassembly,
    ports: Ports,
    commands: Receiver<Command>,
    control: OwnedFd,
    frame: Box<[u8]>,
    alarm: Alarm,
    /// The last turn did not look at what is ready.
    passed_over: bool,
    is_over: bool,
}

impl Stack for Gateway {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.context.poller.as_fd()
    }

    fn turn(&mut self, port: &mut Port) -> Turn {
        self.context.uplink.swap(port);
        let turn = self.serve();
        self.context.uplink.swap(port);
        turn
    }
}

impl Gateway {
    fn serve(&mut self) -> Turn {
        if self.is_over {
            return Turn::Over;
        }
        // Frames come first, every other time: whoever runs the stack is told of what is ready besides, and comes back.
        self.passed_over = self.context.uplink.has_frames() && !self.passed_over;
        if !self.passed_over
            && let Err(error) = self.context.poller.look()
        {
            tracing::error!(%error, "Network gateway cannot learn of events and ends");
            return self.end();
        }
        self.context.now = Instant::now();
        while let Some((token, ready)) = self.context.poller.next() {
            self.guarded("An event", |gateway| gateway.on_ready(token, ready));
        }
        if self.stopped() {
            return self.end();
        }
        self.take_frames();
        while let Some((at, token)) = self.context.timers.pop(self.context.now) {
            self.guarded("A timer", |gateway| gateway.on_timer(token, at));
        }
        self.sweep_timers();
        self.guarded("An answer", Self::answer);
        if !self.context.uplink.is_blocked() {
            self.guarded("A connection", |gateway| gateway.tcp.pump(&mut gateway.context));
            self.guarded("A datagram", |gateway| gateway.udp.pump(&mut gateway.context));
            self.guarded("An echo", |gateway| gateway.echo.pump(&mut gateway.context));
            self.guarded("An answer", Self::answer);
        }
        if self.has_work() {
            return Turn::Again;
        }
        match self.rest() {
            Ok(()) => Turn::Idle,
            Err(error) => {
                tracing::error!(%error, "Network gateway cannot wait for events and ends");
                self.end()
            }
        }
    }

    /// Opens all it needs and starts nothing. The descriptor wakes the thread up for commands.
    pub(crate) fn new(config: NetConfig, commands: Receiver<Command>) -> io::Result<(Self, OwnedFd)> {
        let now = Instant::now();
        let NetConfig {
            addresses,
            mtu,
            policy,
            resolvers,
            publish,
            audit,
            dialer,
            proxy,
            limits,
            ipv6,
            checks,
            interceptor,
        } = config;
        let control = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let host = HostWatch::new()?;
        let poller = Poller::new()?;
        let uplink = Uplink::new(&addresses);
        let alarm = Alarm::new()?;
        poller.add(&alarm, Owner::Alarm)?;
        poller.add(&control, Owner::Control)?;
        poller.add(&host, Owner::HostAddresses)?;
        let dialer = match proxy {
            Some(proxy) => Box::new(ProxyDialer::new(dialer, proxy)),
            None => dialer,
        };
        let context = Context {
            now,
            epoch: now,
            addresses,
            mtu,
            limits,
            poller,
            timers: Timers::default(),
            uplink,
            audit: Audit::new(audit, now),
            dialer,
            policy,
            own: host.addresses()?,
            pins: Pins::new(&limits),
            relays: HashMap::new(),
            complaint: RateLimit::default(),
            stalled: Stalled::default(),
            scratch: vec![0; MAX_SCRATCH].into_boxed_slice(),
            crowd: RateLimit::default(),
            ipv6,
            checks,
            held: Budget::default(),
            interceptor,
            drops: Drops::default(),
        };
        let mut udp = UdpTable::new();
        let mut ports = Ports::new();
        for port in publish {
            ports.add(&context, &mut udp, Bound::new(port)?)?;
        }
        let waker = control.try_clone()?;
        let gateway = Self {
            context,
            tcp: TcpTable::new(),
            udp,
            resolver: Resolver::new(resolvers),
            host,
            echo: EchoTable::new(),
            router: Router::default(),
            reassembly: Reassembly::default(),
            ports,
            commands,
            control,
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            alarm,
            passed_over: false,
            is_over: false,
        };
        Ok((gateway, waker))
    }

    /// Closes everything; there will be no further turn.
    fn end(&mut self) -> Turn {
        self.is_over = true;
        self.context.audit.begin_end();
        self.tcp.clear(&mut self.context);
        self.udp.clear(&mut self.context);
        self.echo.clear(&mut self.context);
        self.context.audit.flush();
        Turn::Over
    }

    /// Does one thing, whose failure must not end the rest: a guest that finds a fault loses what it did with it.
    fn guarded(&mut self, what: &'static str, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.context.fault(what);
        }
    }

    /// Whether there is something to do that no descriptor tells of.
    fn has_work(&self) -> bool {
        let works =
            self.context.uplink.has_frames() || self.tcp.has_work() || self.udp.has_work() || self.echo.has_work();
        works && !self.context.uplink.is_blocked()
    }

    /// Sees to it that the descriptor becomes readable when it is to.
    fn rest(&mut self) -> io::Result<()> {
        self.alarm.set(self.context.timers.next())
    }

    fn on_ready(&mut self, token: Token, ready: Ready) {
        let context = &mut self.context;
        match token.owner() {
            Owner::Control => {
                // The counter goes back to zero; what it counted is in the channel.
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.control, &mut count);
            }
            Owner::HostAddresses => self.refresh_host(),
            Owner::Alarm => self.alarm.rang(),
            Owner::Tcp(key) => self.tcp.on_ready(context, key, ready),
            Owner::Udp(key) => self.udp.on_ready(key, ready),
            Owner::Dns(key) => self.resolver.on_ready(context, key, ready),
            Owner::Listener(key) => self.ports.accept(context, &mut self.tcp, key),
            Owner::UdpPort(key) => self.udp.on_port_ready(key, ready),
            Owner::Echo(key) => self.echo.on_ready(key, ready),
            Owner::Router | Owner::TcpRound => {}
        }
    }

    fn on_timer(&mut self, token: Token, at: Instant) {
        let context = &mut self.context;
        match token.owner() {
            Owner::Tcp(key) => self.tcp.on_timer(key, at),
            Owner::TcpRound => self.tcp.look_after(context, at),
            Owner::Udp(key) => self.udp.on_timer(context, key, at),
            Owner::Dns(key) => self.resolver.on_timer(context, key, at),
            Owner::Listener(key) => self.ports.on_timer(context, &mut self.tcp, key, at),
            Owner::Echo(key) => self.echo.on_timer(context, key, at),
            Owner::Router => self.router.on_timer(context, at),
            Owner::Control | Owner::HostAddresses | Owner::Alarm | Owner::UdpPort(_) => {}
        }
    }

    fn refresh_host(&mut self) {
        if !self.host.take_change() {
            return;
        }
        match self.host.addresses() {
            Ok(own) if own == self.context.own => {}
            Ok(own) => {
                self.context.own = own;
                self.judge_again();
            }
            // The addresses known so far stay denied.
            Err(error) => tracing::warn!(%error, "The host's own addresses could not be read again"),
        }
    }

    /// Cuts what the rules of now do not allow.
    fn judge_again(&mut self) {
        self.resolver.forget();
        self.tcp.revoke(&mut self.context);
        self.udp.revoke(&mut self.context);
        self.echo.revoke(&mut self.context);
    }

    /// Forgets timers of what is gone, when there are many.
    fn sweep_timers(&mut self) {
        let Self { context, tcp, udp, resolver, echo, ports, .. } = self;
        context.timers.sweep(|token| match token.owner() {
            Owner::Tcp(key) => tcp.contains(key),
            Owner::Udp(key) => udp.contains(key),
            Owner::Dns(key) => resolver.contains(key),
            Owner::Echo(key) => echo.contains(key),
            Owner::Listener(key) => ports.contains(key),
            Owner::Control | Owner::HostAddresses | Owner::Alarm | Owner::Router => true,
            Owner::TcpRound | Owner::UdpPort(_) => true,
        });
    }

    /// Carries questions from connections to the resolver, and its answers to whoever asked.
    fn answer(&mut self) {
        let context = &mut self.context;
        for (key, question) in self.tcp.take_questions() {
            self.resolver.ask(context, Origin::Tcp(key), &question);
        }
        for reply in self.resolver.take_replies() {
            match (reply.origin, reply.message) {
                (Origin::Udp { guest, server }, Some(message)) => {
                    send_datagram(&mut context.uplink, context.mtu, server, guest, &message);
                }
                (Origin::Udp { .. }, None) => {}
                (Origin::Tcp(key), message) => self.tcp.on_answer(key, message.as_deref()),
            }
        }
    }
}
