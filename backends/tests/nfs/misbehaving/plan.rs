//! Faults as data: what happens, at which operation, and when.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The operations at which a fault can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Lookup,
    Read,
    Write,
    Create,
    SetAttributes,
    Remove,
    Rename,
    Link,
    ReadDirectory,
    Commit,
    /// Those that are none of the above.
    Other,
    /// Any of the above.
    Any,
}

impl Operation {
    pub(super) fn of_procedure(procedure: u32) -> Self {
        match procedure {
            2 => Self::SetAttributes,
            3 => Self::Lookup,
            6 => Self::Read,
            7 => Self::Write,
            8 => Self::Create,
            12 => Self::Remove,
            14 => Self::Rename,
            15 => Self::Link,
            17 => Self::ReadDirectory,
            21 => Self::Commit,
            _ => Self::Other,
        }
    }
}

/// At which of the operations of its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// The n-th, from 1.
    Nth(u64),
    /// Every n-th.
    Every(u64),
    /// The n-th and all after it.
    From(u64),
    /// All of them.
    Always,
    /// So many of a hundred, drawn from the seed.
    Percent(u32, u64),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The file system answers that.
    Status(nfsstat3),
    /// It answers so much later.
    Late(Duration),
    /// The connection is closed before the call reaches the server.
    CloseBefore,
    /// The call is carried out, then the connection is closed instead of a reply.
    LoseReply,
    /// The call is carried out, and nothing is ever said.
    Silence,
    /// The call is carried out, and the reply breaks off after half of the record: nothing more comes
    /// over the connection, which stays open.
    Stall,
    /// All connections are closed, and what was not committed is forgotten. The next life has
    /// another verifier.
    Restart,
    /// The same, but the verifier stays: nfs-ganesha restarted within a second.
    RestartSameVerifier,
    /// From now on the verifier is another, without a restart.
    NewVerifier,
    /// Half of a WRITE's data is taken.
    ShortWrite,
    /// The reply comes twice.
    Twice,
    /// The reply comes in fragments of 7 bytes.
    Fragments,
    /// The reply has this transaction number.
    Transaction(u32),
    /// The record claims to be longer than it is; the connection is closed after it.
    Truncated,
    /// The record is longer than it claims to be.
    Longer,
    /// The results end soon after their status.
    Cut,
    /// The call is carried out, but the answer is that status.
    Answer(nfsstat3),
    /// The call, and what follows on its connection, gets no further: until the connection ends.
    Hold,
    /// The client dies before the call: neither it nor a later one, over whichever connection, gets
    /// any further.
    ClientDead,
    /// The record claims 2 GiB.
    Huge,
    /// A READ's data is longer than what was asked for.
    MoreData,
    /// The results are `0xff` throughout.
    Garbage,
}

impl Fault {
    /// Whether the file system makes it, not the proxy.
    fn is_of_files(self) -> bool {
        matches!(self, Self::Status(_) | Self::Late(_))
    }
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) at: Operation,
    pub(crate) when: When,
    pub(crate) fault: Fault,
}

impl Rule {
    pub(crate) fn new(at: Operation, when: When, fault: Fault) -> Self {
        Self { at, when, fault }
    }
}

#[derive(Debug)]
struct State {
    rule: Rule,
    seen: u64,
    /// The operations at which it happened.
    met: Vec<Operation>,
    random: Option<ChaCha8Rng>,
}

impl State {
    fn of(rule: Rule) -> Self {
        let random = match rule.when {
            When::Percent(_, seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
            _ => None,
        };
        Self { rule, seen: 0, met: Vec::new(), random }
    }
}

/// The faults of a server, and how far they have come.
#[derive(Debug)]
pub(crate) struct Plan {
    states: Mutex<Vec<State>>,
}

impl Plan {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self { states: Mutex::new(rules.into_iter().map(State::of).collect()) }
    }

    /// Adds a fault, which counts operations from now on.
    pub(crate) fn add(&self, rule: Rule) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push(State::of(rule));
    }

    /// Counts an operation; gives the fault that it meets in the file system or in the proxy.
    pub(super) fn meet(&self, operation: Operation, in_files: bool) -> Option<Fault> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fault = None;
        for state in states.iter_mut().filter(|state| state.rule.fault.is_of_files() == in_files) {
            if state.rule.at != operation && state.rule.at != Operation::Any {
                continue;
            }
            state.seen += 1;
            let met = match state.rule.when {
                When::Nth(n) => state.seen == n,
                When::Every(n) => state.seen % n == 0,
                When::From(n) => state.seen >= n,
                When::Always => true,
                When::Percent(percent, _) => {
                    state.random.as_mut().is_some_and(|random| random.random_range(0..100) < percent)
                }
            };
            if met && fault.is_none() {
                state.met.push(operation);
                fault = Some(state.rule.fault);
            }
        }
        fault
    }

    /// How often faults happened, by rule.
    pub(crate) fn met(&self) -> Vec<usize> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|state| state.met.len())
            .collect()
    }

    /// The operations at which the first rule's fault happened.
    pub(crate) fn met_at(&self) -> Vec<Operation> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[0].met.clone()
    }

    /// How many operations of the first rule's kind there were.
    pub(crate) fn seen(&self) -> u64 {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[0].seen
    }
}
