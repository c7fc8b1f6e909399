//! What the subcommands do.

mod crd;
mod probe;
mod render;
mod run;

use std::io::{self, Write};

pub use run::operate;

use crate::{
    cli::{Cli, Command, InstallationArguments},
    controller::validate::{Images, Installation},
};

/// Runs the subcommand.
///
/// # Errors
/// With a message for the person who called it.
pub async fn execute(cli: Cli) -> Result<(), String> {
    match cli.command {
        Command::Run(arguments) => run::run(*arguments).await,
        Command::Crd => crd::print(),
        Command::Render(arguments) => render::print(&arguments),
        Command::Probe(arguments) => probe::ask(&arguments).await,
    }
}

/// Prints to standard output. A reader that has seen enough, as `head`, is no error.
fn print_text(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

impl From<&InstallationArguments> for Installation {
    fn from(arguments: &InstallationArguments) -> Self {
        Self {
            images: Images {
                server: arguments.server_image.clone(),
                nginx: arguments.nginx_image.clone(),
                redis: arguments.redis_image.clone(),
                postgres: arguments.postgres_image.clone(),
            },
            cluster_domain: arguments.cluster_domain.clone(),
            scrape_interval_seconds: u32::try_from(arguments.scrape_interval.as_secs())
                .unwrap_or(u32::MAX)
                .max(1),
        }
    }
}
