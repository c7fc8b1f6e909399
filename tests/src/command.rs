//! Running a program to its end.

use std::{
    io::ErrorKind,
    process::{Command, Output},
};

use crate::HarnessError;

/// Where programs come from that a fresh Debian 12 does not have.
const PACKAGES: &[(&str, &str)] = &[
    ("buildah", "buildah"),
    ("containerd", "containerd"),
    ("conntrack", "conntrack"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("debootstrap", "debootstrap"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ptp", "containernetworking-plugins"),
    ("runc", "runc"),
];

/// How many bytes of output an error shows at the most.
const SHOWN_OUTPUT: usize = 4000;

/// Runs `command` to its end and returns what it printed to standard output.
///
/// # Errors
/// When the program is missing, or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<String, HarnessError> {
    let output = command.output().map_err(|error| cannot_start(command, error))?;
    checked(&describe(command), output)
}

/// As [`run`], without blocking the tokio runtime.
///
/// # Errors
/// As [`run`].
pub async fn run_async(command: Command) -> Result<String, HarnessError> {
    let described = describe(&command);
    let mut command = tokio::process::Command::from(command);
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| cannot_start(command.as_std(), error))?;
    checked(&described, output)
}

/// Says why a program could not be started: a missing one with the package that has it.
pub(crate) fn cannot_start(command: &Command, error: std::io::Error) -> HarnessError {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == ErrorKind::NotFound {
        missing(&program)
    } else {
        HarnessError::io("start", program)(error)
    }
}

/// The error for a program that is not installed.
pub(crate) fn missing(program: &str) -> HarnessError {
    let remedy = PACKAGES.iter().find(|(name, _)| *name == program).map_or_else(
        || "install it and put it on the PATH".to_owned(),
        |(_, package)| format!("install the Debian package `{package}`, or run tests/cluster/install-packages as root"),
    );
    HarnessError::MissingProgram {
        program: program.to_owned(),
        remedy,
    }
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn checked(described: &str, output: Output) -> Result<String, HarnessError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut printed = output.stdout;
    printed.extend_from_slice(&output.stderr);
    let end = &printed[printed.len().saturating_sub(SHOWN_OUTPUT)..];
    Err(HarnessError::Command {
        command: described.to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(end).trim().to_owned(),
    })
}
