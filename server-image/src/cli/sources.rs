//! `serve --check`: every setting, its value, and where it comes from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::file::ConfigFile;

/// One line for each setting of `subcommand`, in the order of its help, in the form of the file itself. Values that
/// may hold a secret are not shown.
pub(super) fn describe(subcommand: &Command, matches: &ArgMatches, file: Option<&ConfigFile>) -> String {
    let settings = subcommand.get_arguments().filter(|flag| super::file::is_setting(flag));
    let lines = settings.filter_map(|flag| {
        let name = flag.get_long()?;
        let (value, source) = (value(flag, matches), source(name, flag, matches, file));
        Some(format!("{name}: {value}  # {source}\n"))
    });
    lines.collect()
}

fn value(flag: &Arg, matches: &ArgMatches) -> String {
    let Some(values) = matches.get_raw(flag.get_id().as_str()) else {
        return "null".to_owned();
    };
    if flag.is_hide_env_values_set() {
        return "(not shown)".to_owned();
    }
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    values.join(",")
}

fn source(name: &str, flag: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> String {
    match matches.value_source(flag.get_id().as_str()) {
        Some(ValueSource::CommandLine) => "flag".to_owned(),
        Some(ValueSource::EnvVariable) => flag.get_env().unwrap_or_default().to_string_lossy().into_owned(),
        _ => match file {
            Some(file) if file.sets(name) => file.path().display().to_string(),
            _ => "default".to_owned(),
        },
    }
}
