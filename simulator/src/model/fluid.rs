//! Resources that are shared fairly: links, cores, disks.
//!
//! Work flows through *links* of a capacity (bytes or core-seconds, per second). Activities
//! of one *class* take the same path and may each be limited; rates are max-min fair: no
//! activity can have more without one that has less giving up some. A class keeps one counter
//! of the work that each of its activities was given, so an event costs no more for a
//! thousand activities than for one. (The counter is the idea of "throughput sharing" in the
//! dslab simulator; the code is ours.)
//!
//! Activities that come and go within one moment are one change: rates are settled once the
//! moment is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::channel::oneshot;

use super::clock::{AlarmKey, Clock, Model, Nanos};
use super::usage::Usage;

/// Thirty years, in seconds.
const FOREVER_S: f64 = 1e9;

/// A link of a [`Fluid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link(usize);

/// A class of a [`Fluid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(usize);

/// Links and what flows through them.
pub struct Fluid {
    clock: Clock,
    state: Mutex<State>,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    links: Vec<LinkState>,
    classes: Vec<ClassState>,
    /// Classes that have activities, in order.
    active: Vec<usize>,
    /// Until when the counters are right.
    settled: Nanos,
    alarm: Option<AlarmKey>,
    /// The alarm is for this moment's end.
    changed: bool,
    next_activity: u64,
}

struct LinkState {
    capacity: f64,
    /// What flows through it now.
    rate: f64,
    /// Weight of the activities whose rate is not settled yet, while rates are shared.
    rising: f64,
    usage: Usage,
}

struct ClassState {
    path: Vec<usize>,
    /// The most that one activity may have, per second.
    each_max: f64,
    /// Its share against an activity of weight 1.
    weight: f64,
    /// Rate of each activity.
    rate: f64,
    /// Work given to each activity that was there all the time.
    given: f64,
    /// By the counter's value at which they end.
    activities: BTreeMap<ActivityKey, oneshot::Sender<()>>,
}

/// Counter value at the end (bits of a float that is not negative, which sort as it does), and
/// a number that tells equal ones apart.
type ActivityKey = (u64, u64);

impl Fluid {
    /// Resources on `clock`.
    pub fn new(clock: &Clock) -> Arc<Self> {
        Arc::new_cyclic(|this| Self { clock: clock.clone(), state: Mutex::default(), this: this.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link that carries `capacity` a second.
    pub fn link(&self, capacity: f64) -> Link {
        let mut state = self.state();
        state.links.push(LinkState { capacity, rate: 0.0, rising: 0.0, usage: Usage::default() });
        Link(state.links.len() - 1)
    }

    /// A class of activities over `path`, each at most `each_max` a second (infinite if not
    /// limited), with `weight` times the share of others.
    pub fn class(&self, path: &[Link], each_max: f64, weight: f64) -> Class {
        let mut state = self.state();
        state.classes.push(ClassState {
            path: path.iter().map(|link| link.0).collect(),
            each_max,
            weight,
            rate: 0.0,
            given: 0.0,
            activities: BTreeMap::new(),
        });
        Class(state.classes.len() - 1)
    }

    /// Changes a link's capacity from now on; 0 stops it.
    pub fn set_capacity(&self, link: Link, capacity: f64) {
        let mut state = self.state();
        state.settle_to(self.clock.now());
        state.links[link.0].capacity = capacity;
        self.touch(&mut state);
    }

    /// What a link was used for until now.
    pub fn usage(&self, link: Link) -> Usage {
        let mut state = self.state();
        state.settle_to(self.clock.now());
        state.links[link.0].usage.clone()
    }

    /// Does `amount` of work in `class`. Dropping the future ends the activity.
    pub async fn flow(&self, class: Class, amount: f64) {
        if amount <= 0.0 {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let key = self.begin(class, amount, sender);
        let _activity = Activity { fluid: self, class, key };
        // The sender lives as long as the activity.
        let _ = receiver.await;
    }

    fn begin(&self, class: Class, amount: f64, done: oneshot::Sender<()>) -> ActivityKey {
        let mut state = self.state();
        state.settle_to(self.clock.now());
        let number = state.next_activity;
        state.next_activity += 1;
        let of_class = &mut state.classes[class.0];
        if of_class.activities.is_empty() {
            // A counter that begins anew stays small, and so exact.
            of_class.given = 0.0;
        }
        let key = ((of_class.given + amount).to_bits(), number);
        of_class.activities.insert(key, done);
        if let Err(place) = state.active.binary_search(&class.0) {
            state.active.insert(place, class.0);
        }
        self.touch(&mut state);
        key
    }

    fn end(&self, class: Class, key: ActivityKey) {
        let mut state = self.state();
        if state.classes[class.0].activities.contains_key(&key) {
            state.settle_to(self.clock.now());
            state.classes[class.0].activities.remove(&key);
            self.touch(&mut state);
        }
    }

    /// Has the rates settled at the end of this moment.
    fn touch(&self, state: &mut State) {
        if !state.changed {
            state.changed = true;
            self.arm(state, self.clock.now());
        }
    }

    fn arm(&self, state: &mut State, deadline: Nanos) {
        if let Some(old) = state.alarm.take() {
            self.clock.cancel(old);
        }
        if let Some(this) = self.this.upgrade() {
            state.alarm = Some(self.clock.call_at(deadline, this));
        }
    }
}

impl Model for Fluid {
    fn on_alarm(&self) {
        let mut state = self.state();
        let now = self.clock.now();
        state.alarm = None;
        state.changed = false;
        state.settle_to(now);
        let done = state.take_done();
        state.share();
        if let Some(wait) = state.next_end() {
            self.arm(&mut state, now.saturating_add(wait));
        }
        drop(state);
        for activity in done {
            // Whoever waited may be gone.
            let _ = activity.send(());
        }
    }
}

impl std::fmt::Debug for Fluid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        let activities: usize = state.classes.iter().map(|class| class.activities.len()).sum();
        f.debug_struct("Fluid")
            .field("links", &state.links.len())
            .field("activities", &activities)
            .finish_non_exhaustive()
    }
}

struct Activity<'a> {
    fluid: &'a Fluid,
    class: Class,
    key: ActivityKey,
}

impl Drop for Activity<'_> {
    fn drop(&mut self) {
        self.fluid.end(self.class, self.key);
    }
}

#[expect(clippy::cast_precision_loss, reason = "float work, good to a nanosecond for days")]
fn seconds(duration: Nanos) -> f64 {
    duration as f64 * 1e-9
}

/// Whole nanoseconds, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative; what is beyond 2^64 ns saturates"
)]
fn nanos_up(seconds: f64) -> Nanos {
    (seconds * 1e9).ceil() as Nanos
}

impl State {
    /// Brings the counters to `now` at the rates of the last settling.
    fn settle_to(&mut self, now: Nanos) {
        if now == self.settled {
            return;
        }
        let duration = seconds(now - self.settled);
        for &class in &self.active {
            let class = &mut self.classes[class];
            class.given += class.rate * duration;
        }
        for link in self.links.iter_mut().filter(|link| link.rate > 0.0) {
            link.usage.add(self.settled, now, link.rate * duration);
        }
        self.settled = now;
    }

    /// Activities whose work is done, in the order of classes and ends. What would be done
    /// within a nanosecond is done.
    fn take_done(&mut self) -> Vec<oneshot::Sender<()>> {
        let mut done = Vec::new();
        for &class in &self.active {
            let class = &mut self.classes[class];
            let reached = class.given + class.rate * 1e-9;
            while let Some(first) = class.activities.first_entry() {
                if f64::from_bits(first.key().0) > reached {
                    break;
                }
                done.push(first.remove());
            }
        }
        done
    }

    /// Gives every class its max-min fair rate: raise all rates together; whoever meets a
    /// limit, its own or that of a full link, stays there.
    fn share(&mut self) {
        let Self { links, classes, active, .. } = self;
        active.retain(|&class| !classes[class].activities.is_empty());
        for link in links.iter_mut() {
            (link.rate, link.rising) = (0.0, 0.0);
        }
        for class in active.iter().map(|&class| &classes[class]) {
            for &link in &class.path {
                links[link].rising += class.weight * count(class);
            }
        }
        let mut rising = active.clone();
        while !rising.is_empty() {
            let limits: Vec<f64> = rising.iter().map(|&class| limit(&classes[class], links)).collect();
            let level = limits.iter().copied().fold(f64::INFINITY, f64::min);
            let mut limits = limits.into_iter();
            rising.retain(|&class| {
                let rises = limits.next().is_some_and(|limit| limit > level * (1.0 + 1e-12));
                if !rises {
                    settle(&mut classes[class], level, links);
                }
                rises
            });
        }
    }

    /// Until the next activity ends.
    fn next_end(&self) -> Option<Nanos> {
        let waits = self.active.iter().filter_map(|&class| {
            let class = &self.classes[class];
            let (&(end, _), _) = class.activities.first_key_value()?;
            (class.rate > 0.0).then(|| (f64::from_bits(end) - class.given).max(0.0) / class.rate)
        });
        // What takes longer than anybody waits (background traffic) never ends.
        waits.filter(|&wait| wait < FOREVER_S).min_by(f64::total_cmp).map(nanos_up)
    }
}

#[expect(clippy::cast_precision_loss, reason = "never near 2^53 activities")]
fn count(class: &ClassState) -> f64 {
    class.activities.len() as f64
}

/// The rate for a weight of 1 at which `class` cannot rise further: its own limit, or the
/// equal share of what is left of its tightest link.
fn limit(class: &ClassState, links: &[LinkState]) -> f64 {
    let shares = class.path.iter().map(|&link| {
        let link = &links[link];
        (link.capacity - link.rate).max(0.0) / link.rising
    });
    shares.fold(class.each_max / class.weight, f64::min)
}

/// Leaves `class` at `level`.
fn settle(class: &mut ClassState, level: f64, links: &mut [LinkState]) {
    class.rate = (level * class.weight).min(class.each_max);
    for &link in &class.path {
        links[link].rate += class.rate * count(class);
        // Differences of sums of small whole weights stay exact enough; none left is none.
        links[link].rising = (links[link].rising - class.weight * count(class)).max(f64::MIN_POSITIVE);
    }
}
