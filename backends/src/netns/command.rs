//! Programs that are run.

use std::path::Path;
use std::process::Command;

use super::error::{LabError, Tool};

/// What a laboratory runs.
const TOOLS: [Tool; 7] = [
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "tc", package: "iproute2" },
    Tool { program: "ganesha.nfsd", package: "nfs-ganesha nfs-ganesha-vfs" },
    Tool { program: "rpcbind", package: "rpcbind" },
    Tool { program: "nsenter", package: "util-linux" },
    Tool { program: "setpriv", package: "util-linux" },
    Tool { program: "mount", package: "mount" },
];
/// Where programs of root are, even if its `PATH` does not say so.
const MORE_PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Clock ticks of `/proc/PID/stat` in a second: the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Programs that are needed and not installed.
pub fn missing_tools() -> Vec<Tool> {
    TOOLS.into_iter().filter(|tool| !is_installed(tool.program)).collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(MORE_PLACES.map(Into::into));
    places.any(|place| place.join(program).exists())
}

/// A program, found in root's places too.
pub(super) fn program(name: &str) -> Command {
    let place = MORE_PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    Command::new(place.as_deref().unwrap_or(Path::new(name)))
}

/// Runs `ip` with arguments that hold no spaces.
pub(super) fn ip(arguments: &str) -> Result<(), LabError> {
    run(program("ip").args(arguments.split(' ')))
}

/// Runs a command to its end.
pub(super) fn run(command: &mut Command) -> Result<(), LabError> {
    let words = match command.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let arguments = command.get_args().map(|part| part.to_string_lossy().into_owned());
    let parts: Vec<_> = std::iter::once(command_name(command)).chain(arguments).collect();
    Err(LabError::Command { command: parts.join(" "), words })
}

fn command_name(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name();
    name.unwrap_or(command.get_program()).to_string_lossy().into_owned()
}

/// Seconds of a core that a process has used, its ended threads included.
pub(super) fn cpu_s(process: &str) -> Result<f64, LabError> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path)?;
    // Its name, in parentheses, may hold spaces; user and system time are the 12th and 13th
    // words behind it.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks: Option<f64> = words.map(|word| word.parse::<f64>().ok()).sum();
    let odd = || LabError::Command { command: path.clone(), words: "it tells no times".to_owned() };
    ticks.map(|ticks| ticks / TICKS_PER_S).ok_or_else(odd)
}
