//! Fail points: named places where a test kills, stops or fails this process, so that the crash matrix
//! (`tests/tests/crash_matrix`) can prove what survives at each of them. A testing aid: armed only by
//! `CARRYALL_FAILPOINTS`, read at the start, and refused when others reach the listener. Unarmed, a point costs one
//! relaxed load. Never used to make a decision.
//!
//! `CARRYALL_FAILPOINTS` is a list of `point=action`, separated by commas. Actions: `kill` (SIGKILL), `stop` (SIGSTOP;
//! somebody sends SIGCONT), `error` (the part behind the point is away; only where the step may fail). `@N` acts at the
//! Nth time instead of the first, `@N*COUNT` so many times from then on: `claim.before=error@3*20`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

#[cfg(test)]
mod tests;

/// Every point, and whether its step may fail without having done anything.
pub const POINTS: &[(&str, MayFail)] = &[
    ("append.before_put", MayFail::No),
    ("append.after_put", MayFail::No),
    ("append.before_answer", MayFail::No),
    ("put.after_write", MayFail::No),
    ("put.after_link", MayFail::No),
    ("index.before_apply", MayFail::Yes),
    ("index.after_apply", MayFail::No),
    ("open.before_apply", MayFail::No),
    ("claim.before", MayFail::Yes),
    ("claim.after", MayFail::No),
    ("done.before", MayFail::Yes),
    ("done.after", MayFail::No),
    ("decide.after", MayFail::No),
    ("issue.before", MayFail::No),
    ("issue.after", MayFail::No),
    ("outcome.before", MayFail::No),
    ("outcome.after", MayFail::No),
    ("project.before", MayFail::No),
    ("apply.before", MayFail::Yes),
    ("apply.after", MayFail::No),
    ("progress.before_store", MayFail::No),
    ("progress.after_store", MayFail::No),
    ("fail.before", MayFail::Yes),
    ("fail.after", MayFail::No),
    ("park.before_record", MayFail::No),
    ("park.after_record", MayFail::No),
    ("release.after_record", MayFail::No),
    ("discard.after_cancel", MayFail::No),
    ("relay.before_publish", MayFail::Yes),
    ("relay.after_publish", MayFail::No),
    ("checkpoint.before_store", MayFail::Yes),
    ("checkpoint.after_store", MayFail::No),
    ("ack.before", MayFail::Yes),
    ("ack.after", MayFail::No),
    ("snapshot.before_write", MayFail::No),
    ("snapshot.after_write", MayFail::No),
    ("deploy.after_store", MayFail::No),
    ("deploy.after_append", MayFail::No),
    ("deploy.after_swap", MayFail::No),
    ("build.after_begin", MayFail::No),
    ("build.after_stop", MayFail::No),
    ("build.before_take_over", MayFail::No),
    ("build.after_take_over", MayFail::No),
    ("build.before_drop", MayFail::No),
];

/// Whether a point may be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayFail {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
    Error,
}

/// What is to happen at one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    point: &'static str,
    action: Action,
    /// The first time it acts, counted from 1, and how many times from then on.
    first: u64,
    count: u64,
}

/// The error of a point that was told to fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fail point {point} is armed")]
pub struct Injected {
    pub point: &'static str,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PLANS: OnceLock<Vec<(Plan, AtomicU64)>> = OnceLock::new();

/// Understands a list of plans; the words say what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Plan>, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(plan).collect()
}

fn plan(text: &str) -> Result<Plan, String> {
    let (name, action) = text.split_once('=').ok_or_else(|| format!("{text:?} is not point=action"))?;
    let (action, times) = action.split_once('@').unwrap_or((action, "1"));
    let (first, count) = times.split_once('*').unwrap_or((times, "1"));
    let (point, may_fail) =
        *POINTS.iter().find(|(point, _)| *point == name).ok_or_else(|| format!("{name:?} is no fail point"))?;
    let action = match action {
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "error" if may_fail == MayFail::Yes => Action::Error,
        "error" => return Err(format!("{name} can be killed or stopped; its step does not fail by itself")),
        _ => return Err(format!("{action:?} is not kill, stop or error")),
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0).ok_or(format!("{text:?} is not 1, 2, 3 …"));
    Ok(Plan { point, action, first: number(first)?, count: number(count)? })
}

/// Arms the points for the rest of this process; the first call holds.
pub fn arm(plans: Vec<Plan>) {
    if plans.is_empty() {
        return;
    }
    let armed = PLANS.get_or_init(|| plans.into_iter().map(|plan| (plan, AtomicU64::new(0))).collect());
    tracing::warn!(plans = ?armed, "fail points are armed: this process is under test");
    ARMED.store(true, Ordering::Relaxed);
}

/// A place where the process may end or stand still.
#[inline]
pub fn pass(point: &'static str) {
    if ARMED.load(Ordering::Relaxed) {
        // A step that cannot fail has no plan that says `error`: `parse` sees to it.
        let _always_well = meet(point);
    }
}

/// A place whose step may fail as well: nothing of it was done yet.
#[inline]
pub fn fail(point: &'static str) -> Result<(), Injected> {
    if ARMED.load(Ordering::Relaxed) { meet(point) } else { Ok(()) }
}

#[cold]
fn meet(point: &'static str) -> Result<(), Injected> {
    for (plan, hits) in PLANS.get().into_iter().flatten().filter(|(plan, _)| plan.point == point) {
        let hit = hits.fetch_add(1, Ordering::Relaxed) + 1;
        if !plan.acts(hit) {
            continue;
        }
        match plan.action {
            Action::Kill => signal(Signal::KILL),
            Action::Stop => signal(Signal::STOP),
            Action::Error => return Err(Injected { point }),
        }
    }
    Ok(())
}

impl Plan {
    fn acts(&self, hit: u64) -> bool {
        (self.first..self.first.saturating_add(self.count)).contains(&hit)
    }
}

/// Nothing of this process runs on: no destructor, no flush, no other thread.
fn signal(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}
