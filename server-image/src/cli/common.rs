//! What every server needs, whether it listens or serves one client on standard input.

use clap::Args;

use super::database::DefaultFile;
use super::{InvalidSettings, cache, capacity, data, operation, shared_context};
use crate::server::{Network, Settings};
use crate::telemetry::TelemetrySettings;
use crate::{auth, limits, transport};

#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Flags {
    #[command(flatten)]
    data: data::Flags,
    #[command(flatten)]
    capacity: capacity::Flags,
    #[command(flatten)]
    cache: cache::Flags,
    #[command(flatten)]
    shared_context: shared_context::Flags,
    #[command(flatten)]
    operation: operation::Flags,
}

impl Flags {
    /// The settings of a server that does not listen.
    pub(super) fn settings(
        &self,
        default: DefaultFile,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings, InvalidSettings> {
        Ok(Settings {
            network: Network::none(),
            transport: transport::Settings::default(),
            auth: auth::Settings::default(),
            limits: limits::Settings::default(),
            data: self.data.settings(default, variable)?,
            tuning: self.capacity.tuning()?,
            shared_context: self.shared_context.settings()?,
            capacity: self.capacity.capacity()?,
            cache: self.cache.settings(&self.capacity.file()?)?,
            operation: self.operation.settings(),
            telemetry: TelemetrySettings::default(),
        })
    }
}
