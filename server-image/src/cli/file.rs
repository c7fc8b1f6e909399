//! One file of settings: its keys are the names of the flags, its values what the flags would be given.
//!
//! The values become the flags' defaults, so that one parser and one set of checks serve flags, environment and file,
//! and each wins over the next: flag, environment, file, built-in default.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use serde_json::{Map, Value};

/// The flag that names the file; every command that has it takes its settings from there.
const CONFIG: &str = "config";
/// Flags that order something instead of setting something.
const ORDERS: [&str; 5] = [CONFIG, "check", "dry-run", "help", "version"];

/// A file of settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFile {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}: {cause}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is no YAML object.
    #[error("{path} is not a YAML file of `flag: value` lines: {cause}", path = .path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        cause: Box<serde_saphyr::Error>,
    },
    /// A key is not the name of a flag.
    #[error("{path}: {key}: there is no such setting; allowed are {allowed}", path = .path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// All keys there are.
        allowed: String,
    },
    /// A value is not what its flag takes.
    #[error("{path}: {key}: {problem}", path = .path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// The settings of one file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    values: Map<String, Value>,
}

/// The file that the command line or the environment names.
pub(super) fn named(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    // Whatever else is wrong on the command line is told when it is read for good.
    let matches = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(arguments)
        .ok()?;
    let (_, matches) = matches.subcommand()?;
    matches.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned()
}

impl ConfigFile {
    /// Reads the file at `path`; what it says is not looked at yet.
    pub(super) fn read(path: &Path) -> Result<Self, InvalidFile> {
        let text = std::fs::read_to_string(path).map_err(|cause| InvalidFile::Read {
            path: path.to_owned(),
            cause,
        })?;
        // A message must not repeat lines of the file: one of them may hold a password.
        let options = serde_saphyr::options! { with_snippet: false };
        let values: Option<Map<String, Value>> =
            serde_saphyr::from_str_with_options(&text, options).map_err(|cause| InvalidFile::Parse {
                path: path.to_owned(),
                cause: Box::new(cause),
            })?;
        Ok(Self {
            path: path.to_owned(),
            values: values.unwrap_or_default(),
        })
    }

    /// Which file it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it says something about the flag `name`.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Makes the values the defaults of the flags of every command that takes a file.
    pub(super) fn apply(&self, mut command: Command) -> Result<Command, InvalidFile> {
        for (key, value) in &self.values {
            let values = self.check(&command, key, value)?;
            command = command.mut_subcommands(|subcommand| set_default(subcommand, key, &values));
        }
        Ok(command)
    }

    /// The values of `key` as the flag takes them.
    fn check(&self, command: &Command, key: &str, value: &Value) -> Result<Vec<String>, InvalidFile> {
        let subcommand = command
            .get_subcommands()
            .find(|subcommand| takes_file(subcommand) && setting(subcommand, key).is_some())
            .ok_or_else(|| InvalidFile::UnknownKey {
                path: self.path.clone(),
                key: key.to_owned(),
                allowed: keys(command).join(", "),
            })?;
        let wrong = |problem: String| InvalidFile::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            problem,
        };
        let flag = setting(subcommand, key).ok_or_else(|| wrong("there is no such setting".to_owned()))?;
        let values = texts(flag, value).map_err(|problem| wrong(problem.to_string()))?;
        refusal(subcommand, flag, &values).map_or(Ok(values), |problem| Err(wrong(problem)))
    }
}

/// What is wrong with the shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    NotBoolean,
    NotList,
    Nothing,
    Object,
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotBoolean => "must be true or false",
            Self::NotList => "takes one value, not a list",
            Self::Nothing => "has no value; leave the key out to use the default",
            Self::Object => "must be a plain value or a list of plain values, not an object",
        })
    }
}

/// A value of the file as the texts that the flag would be given on the command line.
fn texts(flag: &Arg, value: &Value) -> Result<Vec<String>, Shape> {
    match value {
        Value::Bool(_) if !takes_value(flag) => Ok(vec![value.to_string()]),
        _ if !takes_value(flag) => Err(Shape::NotBoolean),
        Value::Array(items) if takes_list(flag) => items.iter().map(text).collect(),
        Value::Array(_) => Err(Shape::NotList),
        Value::String(text) if takes_list(flag) => Ok(text
            .split(flag.get_value_delimiter().unwrap_or(','))
            .map(str::to_owned)
            .collect()),
        _ => Ok(vec![text(value)?]),
    }
}

fn text(value: &Value) -> Result<String, Shape> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null => Err(Shape::Nothing),
        Value::Array(_) | Value::Object(_) => Err(Shape::Object),
    }
}

/// What the flag's own checks say against `values`, by giving them to it on a command line of its own.
fn refusal(subcommand: &Command, flag: &Arg, values: &[String]) -> Option<String> {
    let name = flag.get_long()?;
    let mut arguments = vec![subcommand.get_name().to_owned()];
    if takes_value(flag) {
        arguments.extend(values.iter().map(|value| format!("--{name}={value}")));
    }
    // The environment must not have a say here: a mistake in it is not the file's.
    let alone = subcommand
        .clone()
        .mut_args(|argument| argument.env(None::<&'static str>));
    let error = alone.try_get_matches_from(arguments).err()?;
    let about_the_value = [
        ErrorKind::InvalidValue,
        ErrorKind::ValueValidation,
        ErrorKind::NoEquals,
        ErrorKind::TooManyValues,
        ErrorKind::TooFewValues,
        ErrorKind::WrongNumberOfValues,
    ];
    // Other errors are about the other flags, which are not given here.
    about_the_value
        .contains(&error.kind())
        .then(|| first_paragraph(&error.to_string()))
}

fn first_paragraph(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

fn set_default(subcommand: Command, key: &str, values: &[String]) -> Command {
    if !takes_file(&subcommand) {
        return subcommand;
    }
    let Some(id) = setting(&subcommand, key).map(|flag| flag.get_id().clone()) else {
        return subcommand;
    };
    subcommand.mut_arg(id, |flag| flag.required(false).default_values(values.to_vec()))
}

fn takes_file(subcommand: &Command) -> bool {
    subcommand.get_arguments().any(|flag| flag.get_long() == Some(CONFIG))
}

/// Whether a flag is a setting, which a file may give, and not an order.
pub(super) fn is_setting(flag: &Arg) -> bool {
    flag.get_long().is_some_and(|name| !ORDERS.contains(&name))
}

fn setting<'a>(subcommand: &'a Command, key: &str) -> Option<&'a Arg> {
    subcommand
        .get_arguments()
        .find(|flag| flag.get_long() == Some(key) && is_setting(flag))
}

/// Every key that some command takes, in alphabetical order.
fn keys(command: &Command) -> Vec<&str> {
    let commands = command.get_subcommands().filter(|subcommand| takes_file(subcommand));
    let mut keys: Vec<&str> = commands
        .flat_map(Command::get_arguments)
        .filter(|flag| is_setting(flag))
        .filter_map(Arg::get_long)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn takes_value(flag: &Arg) -> bool {
    flag.get_action().takes_values()
}

fn takes_list(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::Append)
}
