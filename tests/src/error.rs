//! What can go wrong in the harness, said so that a person knows what to do.

use std::{io, path::PathBuf, time::Duration};

/// An error of the harness.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, for example `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program that the harness calls is not installed.
    #[error("`{program}` is missing: {remedy}")]
    MissingProgram {
        /// The program.
        program: String,
        /// How to get it.
        remedy: String,
    },
    /// Something needs root.
    #[error("{what} needs root: run it as root, or use a cluster you have with CLUSTER=current")]
    NotRoot {
        /// What needs it.
        what: &'static str,
    },
    /// A command ended with an error.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A component of a cluster ended or never became ready.
    #[error("{component} {problem}; its log {} ends with:\n{tail}", log.display())]
    Component {
        /// The component, for example `kube-apiserver`.
        component: String,
        /// What is wrong with it.
        problem: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The API server refused a request or could not be reached.
    #[error("{action}: {source}")]
    Kube {
        /// What was asked for.
        action: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// A kubeconfig could not be used.
    #[error("cannot use the kubeconfig {from}: {source}")]
    Kubeconfig {
        /// Where it came from.
        from: String,
        /// The client's error.
        source: Box<kube::config::KubeconfigError>,
    },
    /// A condition did not come true in time.
    #[error("waited {waited:?} for {what}; last seen: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long the wait lasted.
        waited: Duration,
        /// The last state that was seen.
        last: String,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificates of the cluster: {0}")]
    Certificate(#[from] rcgen::Error),
    /// An image is not what the tests need.
    #[error("image {image}: {problem}")]
    Image {
        /// The image's name.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The state folder, a setting or a request of a test cannot be used as it is.
    #[error("{0}")]
    Unusable(String),
}

impl HarnessError {
    /// Returns a function that turns an [`io::Error`] about `path` into an error of the harness.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Returns a function that turns a client's error into an error of the harness.
    pub fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube {
            action,
            source: Box::new(source),
        }
    }
}
