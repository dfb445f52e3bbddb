//! What a running VM does for whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netstack::{Report, Transport};
use policy::Policy;

use super::message::{NetworkStatus, PublishedPort, Request, Response, Status};
use crate::error::Error;
use crate::files::Files;
use crate::instance::Card;
use crate::plan::Plan;
use crate::ports::Board;

/// What does not change while the VM runs.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    status: Status,
}

impl Facts {
    pub(crate) fn new(card: &Card, plan: &Plan, engine: vmm::Engine) -> Self {
        let status = Status {
            id: card.id.clone(),
            project: card.project.clone(),
            pid: std::process::id(),
            started: card.started,
            engine: format!("{engine:?}").to_lowercase(),
            cpus: plan.cpus,
            memory_mib: plan.memory.0,
            shares: Vec::new(),
            network: None,
        };
        Self { status }
    }

    #[cfg(test)]
    pub(super) fn of(status: Status) -> Self {
        Self { status }
    }
}

/// Answers requests, from any thread.
#[derive(Debug)]
pub(crate) struct Service {
    facts: Facts,
    files: Files,
    board: Option<Arc<Board>>,
    log_lines_lost: Arc<AtomicU64>,
}

impl Service {
    /// `board` is absent where there is no network.
    pub(crate) fn new(facts: Facts, files: Files, board: Option<Arc<Board>>, log_lines_lost: Arc<AtomicU64>) -> Self {
        Self { facts, files, board, log_lines_lost }
    }

    /// Does what is asked.
    pub(crate) fn answer(&self, request: Request) -> Response {
        let outcome = match (request, &self.board) {
            (Request::Status, _) => return self.status(),
            (_, None) => Err("This VM has no network: it was started without one (--no-network, or `network = false` in the settings)".to_owned()),
            (Request::Publish { port }, Some(board)) => {
                board.publish(port).map(|port| Response::Published { port }).map_err(|error| error.to_string())
            }
            (Request::Unpublish { address, port, udp }, Some(board)) => {
                let transport = if udp { Transport::Udp } else { Transport::Tcp };
                match board.unpublish(address, port, transport) {
                    Ok(true) => Ok(Response::Done),
                    Ok(false) => Err(format!("No {transport} port {port} is published there")),
                    Err(error) => Err(error.to_string()),
                }
            }
            (Request::SetPolicy { policy }, Some(board)) => set_policy(board, &policy),
        };
        outcome.unwrap_or_else(|message| Response::Failed { message })
    }

    fn status(&self) -> Response {
        let status = self.files.status().and_then(|shares| {
            let network = self.network()?;
            Ok(Status { shares, network, ..self.facts.status.clone() })
        });
        match status {
            Ok(status) => Response::Status(Box::new(status)),
            Err(error) => Response::Failed { message: error.to_string() },
        }
    }

    fn network(&self) -> Result<Option<NetworkStatus>, Error> {
        let Some(board) = &self.board else { return Ok(None) };
        NetworkStatus::ask(board, &self.log_lines_lost).map(Some)
    }
}

fn set_policy(board: &Board, table: &policy::Table) -> Result<Response, String> {
    let policy = Policy::from_table(table).map_err(|error| error.to_string())?;
    board.network().set_policy(policy).map_err(|error| error.to_string())?;
    // The stack serves commands in their order: when it reports, the policy is in force and flows are cut.
    board.network().report().map_err(|error| error.to_string())?;
    Ok(Response::Done)
}

impl NetworkStatus {
    /// Asks the stack; `log_lines_lost` counts what the log missed.
    pub(crate) fn ask(board: &Board, log_lines_lost: &AtomicU64) -> Result<Self, Error> {
        let report = board.network().report();
        let report = report.map_err(|source| Error::host("Asking the network stack what is in force", source))?;
        Ok(Self::of(report, log_lines_lost.load(Ordering::Relaxed)))
    }

    /// What the stack reports, and how much of it the log missed.
    fn of(report: Report, log_lines_lost: u64) -> Self {
        let published = report.published.into_iter().map(|published| PublishedPort {
            bind: published.port.bind,
            guest_port: published.port.guest_port,
            transport: published.port.transport.to_string().to_lowercase(),
            connections: published.connections,
        });
        Self {
            gateway: report.addresses.gateway_v4,
            policy: report.policy,
            ways: report.ways,
            resolvers: report.resolvers,
            published: published.collect(),
            tcp_flows: report.tcp_flows,
            udp_mappings: report.udp_mappings,
            log_lines_lost,
        }
    }
}
