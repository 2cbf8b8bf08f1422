//! Shell completions and man pages, made from the command line's definition.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output;

/// Prints completions.
pub(super) fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "comio", &mut script);
    output::data(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

/// Prints the main man page, or writes all pages to `directory`.
pub(super) fn pages(directory: Option<&Path>) -> anyhow::Result<Exit> {
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .with_context(|| format!("cannot write man pages to {}", directory.display()))?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output::data(&String::from_utf8(page)?)?;
    Ok(Exit::Done)
}
