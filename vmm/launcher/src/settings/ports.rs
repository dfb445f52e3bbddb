//! What settings say about ports of the guest on the host.

use toml::Spanned;

use super::error::SettingsError;
use super::read::Source;
use crate::PortSpec;

/// Ports to publish: what one place says, or what all of them come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ports of the guest that this host can reach.
    pub publish: Vec<PortSpec>,
    /// Whether every port of the guest that something listens on is published; `None` says nothing about it.
    pub auto: Option<bool>,
}

impl Ports {
    /// The keys `publish` and `auto_publish` of a file.
    pub(super) fn read(
        source: &Source,
        publish: Option<Vec<Spanned<String>>>,
        auto: Option<bool>,
    ) -> Result<Self, SettingsError> {
        let parse = |text: Spanned<String>| {
            let wrong = |error: crate::PortError| source.wrong_in_words(&text.span(), "publish", error.to_string());
            text.get_ref().parse().map_err(wrong)
        };
        Ok(Self { publish: publish.unwrap_or_default().into_iter().map(parse).collect::<Result<_, _>>()?, auto })
    }

    /// Both, where `self` is nearer: ports add up, of two for the same port of the host the nearer one counts.
    pub(super) fn over(self, far: Self) -> Self {
        let place = |port: &PortSpec| (port.address, port.host, port.transport);
        let is_free = |port: &PortSpec| port.host == 0 || !self.publish.iter().any(|near| place(near) == place(port));
        let mut publish: Vec<PortSpec> = far.publish.into_iter().filter(is_free).collect();
        publish.extend(&self.publish);
        Self { publish, auto: self.auto.or(far.auto) }
    }
}
