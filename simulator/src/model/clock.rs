//! The event clock: time that moves only when nothing else can happen.
//!
//! One future, whatever it is made of, runs on one thread ([`run`]). While it makes progress
//! no time passes; when it waits, time jumps to the next alarm. Alarms of one moment go off in
//! the order in which they were set. So a simulation depends on nothing but its inputs, and
//! its [`digest`](Clock::digest) tells whether two went the same way.
//!
//! Time is a whole number of nanoseconds from the start.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A moment or a duration, in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;

/// Something that changes by itself as time passes.
pub trait Model: Send + Sync {
    /// The alarm that it set has gone off.
    fn on_alarm(&self);
}

/// A clock; clones show the same time.
#[derive(Clone, Default)]
pub struct Clock {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    now: Nanos,
    next_sequence: u64,
    alarms: BTreeMap<AlarmKey, Alarm>,
    digest: u64,
    events: u64,
}

/// When, and in which order among alarms of one moment.
pub type AlarmKey = (Nanos, u64);

enum Alarm {
    Wake(Waker),
    Call(Arc<dyn Model>),
}

impl Clock {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the start.
    pub fn now(&self) -> Nanos {
        self.shared().now
    }

    /// Waits for a duration.
    pub fn sleep(&self, duration: Nanos) -> Sleep {
        self.sleep_until(self.now().saturating_add(duration))
    }

    /// Waits until a moment; not at all if it is past.
    pub fn sleep_until(&self, deadline: Nanos) -> Sleep {
        Sleep { clock: self.clone(), deadline, key: None }
    }

    /// Calls `model` at `deadline`, or at this moment, once nothing else can happen in it.
    pub fn call_at(&self, deadline: Nanos, model: Arc<dyn Model>) -> AlarmKey {
        self.shared().set(deadline, Alarm::Call(model))
    }

    /// Takes an alarm back. One that went off is no error.
    pub fn cancel(&self, key: AlarmKey) {
        self.shared().alarms.remove(&key);
    }

    /// Changes with every alarm that goes off: equal for equal histories.
    pub fn digest(&self) -> u64 {
        self.shared().digest
    }

    /// How many alarms have gone off.
    pub fn events(&self) -> u64 {
        self.shared().events
    }

    /// Moves to the next alarms and sets them off; `false` if there is none.
    fn advance(&self) -> bool {
        let due = self.shared().take_due();
        let any = !due.is_empty();
        // Outside the lock: whoever is called sets alarms.
        for alarm in due {
            match alarm {
                Alarm::Wake(waker) => waker.wake(),
                Alarm::Call(model) => model.on_alarm(),
            }
        }
        any
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = self.shared();
        let alarms = shared.alarms.len();
        f.debug_struct("Clock").field("now", &shared.now).field("alarms", &alarms).finish_non_exhaustive()
    }
}

impl Shared {
    fn set(&mut self, deadline: Nanos, alarm: Alarm) -> AlarmKey {
        let key = (deadline.max(self.now), self.next_sequence);
        self.next_sequence += 1;
        self.alarms.insert(key, alarm);
        key
    }

    fn take_due(&mut self) -> Vec<Alarm> {
        let Some((&(moment, _), _)) = self.alarms.first_key_value() else { return Vec::new() };
        self.now = moment;
        let later = self.alarms.split_off(&(moment + 1, 0));
        let due = std::mem::replace(&mut self.alarms, later);
        for (at, sequence) in due.keys() {
            self.events += 1;
            // FNV-1a over words: cheap, and no secret is kept.
            self.digest = (self.digest ^ at).wrapping_mul(0x0100_0000_01b3);
            self.digest = (self.digest ^ sequence).wrapping_mul(0x0100_0000_01b3);
        }
        due.into_values().collect()
    }
}

/// See [`Clock::sleep`]. Dropping it takes its alarm back.
#[derive(Debug)]
#[must_use = "a sleep that is not awaited does not wait"]
pub struct Sleep {
    clock: Clock,
    deadline: Nanos,
    key: Option<AlarmKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut shared = this.clock.shared();
        if shared.now >= this.deadline {
            // Its alarm has gone off, unless it was first polled too late to set one.
            this.key = None;
            return Poll::Ready(());
        }
        let alarm = Alarm::Wake(context.waker().clone());
        match this.key {
            Some(key) => drop(shared.alarms.insert(key, alarm)),
            None => this.key = Some(shared.set(this.deadline, alarm)),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.cancel(key);
        }
    }
}

/// Everything waits and no alarm is set: nothing will ever happen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulation stands still at {0} ns: everything waits for something that will not come")]
pub struct Standstill(pub Nanos);

/// Runs `future` to its end on `clock`.
///
/// # Errors
/// [`Standstill`] when it waits for something that will not come.
pub fn run<T>(clock: &Clock, future: impl Future<Output = T>) -> Result<T, Standstill> {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    loop {
        while woken.0.swap(false, Ordering::AcqRel) {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return Ok(result);
            }
        }
        if !clock.advance() {
            return Err(Standstill(clock.now()));
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod test {
    use futures::future::{join_all, select};
    use futures::stream::{FuturesUnordered, StreamExt};
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn sixty_four_clients_of_eight_slots_take_exactly_what_they_must() {
        let clock = Clock::default();
        let slots = Semaphore::new(8);
        let client = |_| async {
            for _ in 0..100 {
                let _slot = slots.acquire().await;
                clock.sleep(800_000).await;
            }
        };
        run(&clock, join_all((0..64).map(client))).unwrap();
        assert_eq!(clock.now(), 64 * 100 / 8 * 800_000);
    }

    #[test]
    fn alarms_of_one_moment_go_off_in_the_order_they_were_set() {
        let clock = Clock::default();
        let sleeper = |number: u64| {
            let clock = clock.clone();
            async move {
                clock.sleep(10 + number % 3).await;
                number
            }
        };
        let sleepers: FuturesUnordered<_> = (0..9).map(sleeper).collect();
        let order: Vec<u64> = run(&clock, sleepers.collect()).unwrap();
        assert_eq!(order, [0, 3, 6, 1, 4, 7, 2, 5, 8]);
    }

    #[test]
    fn a_dropped_sleep_leaves_no_alarm() {
        let clock = Clock::default();
        run(&clock, select(pin!(clock.sleep(5)), pin!(clock.sleep(1000 * SECOND)))).unwrap();
        assert_eq!(clock.now(), 5);
        assert!(clock.shared().alarms.is_empty());
    }

    #[test]
    fn a_standstill_is_told() {
        let clock = Clock::default();
        let stuck = async {
            clock.sleep(7).await;
            futures::future::pending::<()>().await;
        };
        assert_eq!(run(&clock, stuck), Err(Standstill(7)));
    }

    #[test]
    fn equal_histories_have_equal_digests() {
        let digest = |last: u64| {
            let clock = Clock::default();
            let sleeps = (0..100u64).map(|i| clock.sleep(i * i % 17 + last));
            run(&clock, join_all(sleeps)).unwrap();
            (clock.digest(), clock.events())
        };
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1).0, digest(2).0);
    }
}
