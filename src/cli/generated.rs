//! The man pages and completions in packaging/debian are made from the command line's definition, the schema of status.json from the
//! types that it is written from: here they are compared. `UPDATE=1 cargo test --lib cli::generated` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

use super::Cli;
use crate::core::status::StatusView;

#[test]
fn man_pages_and_completions_are_what_the_command_line_says() {
    let made = tempfile::tempdir().unwrap();
    let (man, completions) = (made.path().join("man"), made.path().join("completions"));
    fs::create_dir(&man).unwrap();
    fs::create_dir(&completions).unwrap();
    clap_mangen::generate_to(Cli::command(), &man).unwrap();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut without_hidden(&Cli::command()), "restart-agent", &completions).unwrap();
    }
    for directory in ["man", "completions"] {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian").join(directory);
        let wanted = files(&made.path().join(directory));
        if std::env::var_os("UPDATE").is_some() {
            let _ = fs::remove_dir_all(&committed);
            fs::create_dir_all(&committed).unwrap();
            for (name, text) in &wanted {
                fs::write(committed.join(name), text).unwrap();
            }
        }
        let there = files(&committed);
        for name in wanted.keys().chain(there.keys()) {
            assert!(
                there.get(name) == wanted.get(name),
                "packaging/debian/{directory}/{name} is out of date: UPDATE=1 cargo test --lib cli::generated"
            );
        }
    }
}

#[test]
fn the_schema_of_status_json_is_that_of_the_view() {
    let mut schema =
        schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<StatusView>();
    schema.insert("title".to_owned(), "/run/restart-agent/status.json of restart-agent, and restart-agent status --json".into());
    let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/status.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&committed, &made).unwrap();
    }
    let there = fs::read_to_string(&committed).unwrap_or_default();
    assert!(there == made, "docs/reference/status.schema.json is out of date: UPDATE=1 cargo test --lib cli::generated");
}

/// Completions would offer hidden options too.
fn without_hidden(command: &clap::Command) -> clap::Command {
    let shown = clap::Command::new(&*command.get_name().to_owned().leak())
        .about(command.get_about().cloned().unwrap_or_default())
        .disable_help_subcommand(true)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(command.get_subcommands().map(without_hidden));
    match command.get_version() {
        Some(version) => shown.version(&*version.to_owned().leak()),
        None => shown,
    }
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    let Ok(listed) = fs::read_dir(dir) else { return BTreeMap::new() };
    listed
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}
