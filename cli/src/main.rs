//! `comio`: saves and restores virtual machines fast by compressing their memory page by page.

mod ancestors;
mod args;
mod circumstances;
mod commands;
mod exit;
mod guest_config;
mod host_config;
mod location;
mod marks;
mod output;
mod progress;
mod session;
mod signals;
mod total;
mod traces;
mod world;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use exit::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::say(&format!("comio: {error:#}"));
            exit::of(&error).into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    // Compression runs on the worker pool; these threads move bytes to and from servers.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let exit = runtime.block_on(commands::run(cli.command));
    // A blocked pipe or an unreachable server must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// Words about what happens go to stderr: warnings by default, more on demand.
fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"][usize::from(verbose).min(3)];
    let filter = tracing_subscriber::EnvFilter::try_from_env("COMIO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},nfs3_server=error")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
