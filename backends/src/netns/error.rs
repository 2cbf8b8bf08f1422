//! Why there is no laboratory.

/// A laboratory that could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces and links are root's.
    #[error("network namespaces need root: run it with sudo")]
    NotRoot,
    /// Programs that are not installed, each with its package.
    #[error("{} not installed: apt-get install {}", names(.0), packages(.0))]
    Missing(Vec<Tool>),
    /// More hosts than addresses.
    #[error("{hosts} hosts need more addresses than there are: at most {most} with network namespaces")]
    TooManyHosts {
        /// Hosts of the scenario.
        hosts: usize,
        /// The most there can be.
        most: usize,
    },
    /// Every network that it would use is in use.
    #[error("every network from 10.100.0.0 to 10.199.249.0 is in use on this machine")]
    NoAddress,
    /// A program failed.
    #[error("`{command}` failed: {words}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        words: String,
    },
    /// The server did not come up.
    #[error("nobody listens on port {port} of the server; its log ends with:\n{log}")]
    Silent {
        /// The port.
        port: u16,
        /// The end of the server's log.
        log: String,
    },
    /// A file or a process.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub program: &'static str,
    /// Its package.
    pub package: &'static str,
}

fn names(tools: &[Tool]) -> String {
    let names: Vec<_> = tools.iter().map(|tool| tool.program).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

fn packages(tools: &[Tool]) -> String {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.join(" ")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_packages() {
        let tool = |program, package| Tool { program, package };
        let missing = LabError::Missing(vec![tool("ip", "iproute2"), tool("tc", "iproute2")]);
        assert_eq!(missing.to_string(), "ip, tc are not installed: apt-get install iproute2");
        let missing = LabError::Missing(vec![tool("rpcbind", "rpcbind")]);
        assert_eq!(missing.to_string(), "rpcbind is not installed: apt-get install rpcbind");
    }
}
