//! How kubectl and helm reach a cluster.

use std::{path::PathBuf, process::Command};

use crate::{
    HarnessError,
    control_plane::in_network,
    tools::{self, Tool},
};

/// The way to one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The network namespace its addresses are in, `None` for that of the machine.
    pub network: Option<&'static str>,
    /// The kubeconfig, `None` for what the user's environment says.
    pub kubeconfig: Option<PathBuf>,
}

impl Access {
    /// kubectl with `arguments`.
    pub fn kubectl(&self, arguments: &[impl AsRef<str>]) -> Result<Command, HarnessError> {
        Ok(self.command(&tools::component("kubectl")?, arguments))
    }

    /// helm with `arguments`.
    pub fn helm(&self, arguments: &[impl AsRef<str>]) -> Result<Command, HarnessError> {
        Ok(self.command(&Tool::Helm.path()?, arguments))
    }

    fn command(&self, program: &std::path::Path, arguments: &[impl AsRef<str>]) -> Command {
        let mut command = in_network(self.network, program);
        command.args(arguments.iter().map(AsRef::as_ref));
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }
}
