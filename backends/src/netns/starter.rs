//! The thread that starts a laboratory's processes.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};

type Order = (Command, Sender<io::Result<Child>>);

/// Starts processes, all in one thread that lives as long as this does.
///
/// They are killed when their parent dies (`setpriv --pdeathsig`), and to the kernel the parent is
/// the thread that started them: one started in a thread of the caller's would end with that.
#[derive(Debug)]
pub(super) struct Starter {
    orders: Sender<Order>,
}

impl Starter {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn new() -> io::Result<Self> {
        let (orders, ordered) = channel::<Order>();
        std::thread::Builder::new().name("comio-netns".to_owned()).spawn(move || {
            for (mut command, answer) in ordered {
                // Nobody waits for it if the caller is gone.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a process.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts processes is gone");
        let (answer, answered) = channel();
        self.orders.send((command, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let starter = Starter::new().unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sleep", "1"]);
        let asked = std::thread::scope(|scope| scope.spawn(|| starter.spawn(command)).join().unwrap());
        assert!(asked.unwrap().wait().unwrap().success());
    }
}
