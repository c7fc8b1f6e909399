//! Starts, stops and looks at the cluster of the end-to-end tests.

use std::process::{Command, ExitCode, ExitStatus};

use clap::{Parser, Subcommand};
use mcpscale_tests::{
    HarnessError,
    images::{self, Bundle},
    node::NodeCluster,
    tools::Tool,
};

/// The one-node cluster that the end-to-end tests use, on this machine.
#[derive(Parser)]
#[command(name = "mcpscale-cluster")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start the cluster unless it runs.
    Up {
        /// Also build and load all images.
        #[arg(long)]
        images: bool,
    },
    /// Stop the cluster and remove all it left, also after a crash.
    Down,
    /// Build all images, and load them if the cluster runs.
    Images,
    /// Say whether the cluster runs.
    Status,
    /// Run kubectl against the cluster.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What to give to kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm against the cluster.
    #[command(disable_help_flag = true)]
    Helm {
        /// What to give to helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write objects, Events and logs into a new folder.
    Collect,
    /// Build the programs that the tests need, and print their paths.
    Tools,
}

fn main() -> ExitCode {
    match run(Arguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcpscale-cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode, HarnessError> {
    let node = NodeCluster::of_this_machine()?;
    match action {
        Action::Up { images } => up(&node, images)?,
        Action::Down => node.down()?,
        Action::Images => load_images(&node)?,
        Action::Status => return Ok(status(&node)),
        Action::Kubectl { arguments } => return pass(node.kubectl(&arguments)?),
        Action::Helm { arguments } => return pass(node.helm(&arguments)?),
        Action::Collect => println!("{}", node.collect("collect")?.display()),
        Action::Tools => {
            for tool in Tool::ALL {
                println!("{}", tool.path()?.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(node: &NodeCluster, with_images: bool) -> Result<(), HarnessError> {
    node.up()?;
    if with_images {
        load_images(node)?;
    }
    println!(
        "use it with {} get pods --all-namespaces",
        node.kubectl_script().display()
    );
    Ok(())
}

fn load_images(node: &NodeCluster) -> Result<(), HarnessError> {
    let bundles = images::all()?;
    if node.is_up() {
        node.load(&bundles)?;
    }
    for Bundle { images, archive, .. } in &bundles {
        println!("{} {}", archive.display(), images.join(" "));
    }
    Ok(())
}

fn status(node: &NodeCluster) -> ExitCode {
    for process in node.processes().recorded() {
        println!(
            "{:24} {}",
            process.name,
            if process.id.is_running() { "runs" } else { "has ended" }
        );
    }
    if node.is_up() {
        println!("the cluster is up; use it with {}", node.kubectl_script().display());
        ExitCode::SUCCESS
    } else {
        println!("the cluster is not up; start it with `make cluster-up`");
        ExitCode::FAILURE
    }
}

/// Runs `command` in place of this program.
fn pass(mut command: Command) -> Result<ExitCode, HarnessError> {
    let status = command
        .status()
        .map_err(HarnessError::io("start", command.get_program()))?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
