use super::*;
use crate::supervisor::stop::HANDSHAKES;

const POLICY: Policy =
    Policy { workers: 2, slots: 8, preload: true, drain_delay: Duration::ZERO, drain_timeout: Duration::from_secs(30) };
const RELOAD: Option<Restart> = Some(Restart::Reload);

/// A fleet and its clock.
struct Sea(Fleet, Now);

impl Sea {
    fn on(&mut self, event: Event) -> Vec<Action> {
        self.0.on(self.1, event)
    }

    /// Lets time pass until the next deadline.
    fn wait(&mut self) -> Vec<Action> {
        self.1 = self.0.deadline().expect("something to wait for");
        self.on(Event::Tick)
    }

    fn serving() -> Self {
        let mut sea = Sea(Fleet::new(POLICY), Now::ZERO);
        assert_eq!(sea.on(Event::Start), [Action::StartZygote { generation: 1, preload: true }]);
        let forks = sea.on(Event::ZygoteReady(1));
        assert_eq!(forks, [Action::Fork { generation: 1, slot: 0 }, Action::Fork { generation: 1, slot: 1 }]);
        assert_eq!(sea.on(Event::WorkerReady(0)), []);
        assert_eq!(sea.on(Event::WorkerReady(1)), [Action::Serving(1)]);
        sea
    }
}

fn broken() -> ImportError {
    ImportError { advice: "mend it".into(), code: Code::Config }
}

#[test]
fn a_reload_drains_the_last_generation_only_when_the_next_serves() {
    let mut sea = Sea::serving();
    assert_eq!(sea.on(Event::Reload), [Action::StartZygote { generation: 2, preload: true }]);
    let forks = sea.on(Event::ZygoteReady(2));
    assert_eq!(forks, [Action::Fork { generation: 2, slot: 2 }, Action::Fork { generation: 2, slot: 3 }]);
    assert_eq!(sea.on(Event::WorkerReady(2)), []);
    assert_eq!(
        sea.on(Event::WorkerReady(3)),
        [Action::Drain { slot: 0, why: RELOAD }, Action::Drain { slot: 1, why: RELOAD }, Action::StopZygote(1)]
    );
    assert_eq!(sea.on(Event::WorkerDraining(0)), []);
    assert_eq!(sea.on(Event::WorkerDraining(1)), [Action::Serving(2)]);
    assert_eq!(sea.on(Event::WorkerExited(0, "ended".into())), []);
    assert!(matches!(&sea.wait()[..], [Action::Warn(_), Action::Kill(1)]));
}

#[test]
fn a_reload_during_a_reload_follows_it() {
    let mut sea = Sea::serving();
    sea.on(Event::Reload);
    assert_eq!(sea.on(Event::Reload), []);
    sea.on(Event::ZygoteReady(2));
    sea.on(Event::WorkerReady(2));
    let actions = sea.on(Event::WorkerReady(3));
    assert_eq!(actions.last(), Some(&Action::StartZygote { generation: 3, preload: true }));
}

#[test]
fn a_failed_import_keeps_the_last_generation() {
    let mut sea = Sea::serving();
    sea.on(Event::Reload);
    let actions = sea.on(Event::ImportFailed(2, broken()));
    assert_eq!(actions, [Action::StopZygote(2), Action::ReloadFailed("mend it".into())]);
    assert_eq!(sea.0.serving(), Some(1));
}

#[test]
fn a_failed_first_import_ends_with_the_reason() {
    let mut sea = Sea(Fleet::new(POLICY), Now::ZERO);
    sea.on(Event::Start);
    let actions = sea.on(Event::ImportFailed(1, broken()));
    assert!(matches!(&actions[..], [Action::StopZygote(1), Action::Exit(Err(f))] if f.code == Code::Config));
}

#[test]
fn what_cannot_be_forked_is_imported_by_each_worker() {
    let mut sea = Sea(Fleet::new(POLICY), Now::ZERO);
    sea.on(Event::Start);
    let actions = sea.on(Event::Unforkable(1, vec!["1 socket open".into()]));
    assert!(matches!(
        &actions[..],
        [Action::Warn(_), Action::StopZygote(1), Action::StartZygote { generation: 2, preload: false }]
    ));
    sea.on(Event::ZygoteExited(1, "ended".into()));
    assert_eq!(sea.on(Event::ZygoteReady(2)).len(), 2);
}

#[test]
fn a_dead_worker_is_replaced_after_a_growing_pause() {
    let mut sea = Sea::serving();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let before = sea.1;
        let actions = sea.on(Event::WorkerExited(1, "was killed by SIGSEGV".into()));
        assert!(matches!(&actions[..], [Action::Crashed(1), Action::Warn(_)]));
        assert_eq!(sea.wait(), [Action::Fork { generation: 1, slot: 1 }]);
        pauses.push((sea.1 - before).as_millis());
        sea.on(Event::WorkerReady(1));
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
    sea.1 += STABLE;
    sea.on(Event::WorkerExited(1, "was killed".into()));
    assert_eq!(sea.0.deadline(), Some(sea.1 + BACKOFF));
}

#[test]
fn a_crash_loop_ends_with_the_reason() {
    let mut sea = Sea::serving();
    sea.on(Event::WorkerExited(0, "was killed".into()));
    for _ in 0..40 {
        let actions = sea.on(Event::WorkerExited(1, "was killed by SIGSEGV".into()));
        if let Some(Action::Exit(Err(failure))) = actions.last() {
            assert_eq!(failure.code, Code::Software);
            assert!(failure.message.contains("SIGSEGV"));
            return;
        }
        for action in sea.wait() {
            if let Action::Fork { slot: 0, .. } = action {
                sea.on(Event::WorkerExited(0, "was killed".into()));
            }
        }
    }
    panic!("it spins");
}

#[test]
fn a_worker_that_dies_again_and_again_does_not_end_one_that_serves() {
    let mut sea = Sea::serving();
    for _ in 0..40 {
        let actions = sea.on(Event::WorkerExited(1, "was killed".into()));
        assert!(!actions.iter().any(|action| matches!(action, Action::Exit(_))));
        sea.wait();
        sea.on(Event::WorkerReady(1));
    }
}

#[test]
fn stop_drains_everything_then_exits() {
    let mut sea = Sea::serving();
    assert_eq!(sea.on(Event::Stop), [Action::Refuse, Action::StopZygote(1)]);
    assert_eq!(sea.on(Event::Quiet), []);
    assert_eq!(
        sea.on(Event::ZygoteExited(1, "ended".into())),
        [Action::CloseSockets, Action::Drain { slot: 0, why: None }, Action::Drain { slot: 1, why: None }]
    );
    assert_eq!(sea.on(Event::WorkerExited(0, "ended".into())), []);
    assert_eq!(sea.on(Event::WorkerExited(1, "ended".into())), [Action::Exit(Ok(()))]);
}

#[test]
fn stop_waits_for_connections_that_are_being_made_but_not_for_long() {
    let mut sea = Sea::serving();
    sea.on(Event::Stop);
    assert_eq!(sea.on(Event::ZygoteExited(1, "ended".into())), []);
    let before = sea.1;
    assert_eq!(sea.wait().first(), Some(&Action::CloseSockets));
    assert_eq!(sea.1 - before, HANDSHAKES);
    assert_eq!(sea.on(Event::Quiet), []);
}

#[test]
fn stop_waits_for_the_drain_delay() {
    let mut fleet = Fleet::new(Policy { drain_delay: Duration::from_secs(5), ..POLICY });
    fleet.on(Now::ZERO, Event::Start);
    assert_eq!(fleet.on(Now::ZERO, Event::Stop), []);
    assert_eq!(fleet.deadline(), Some(Duration::from_secs(5)));
    assert_eq!(fleet.on(Duration::from_secs(5), Event::Tick), [Action::Refuse, Action::StopZygote(1)]);
}

#[test]
fn a_lost_zygote_is_replaced_by_the_next_generation() {
    let mut sea = Sea::serving();
    let actions = sea.on(Event::ZygoteExited(1, "was killed".into()));
    assert!(matches!(&actions[..], [Action::Warn(_)]));
    assert_eq!(sea.wait(), [Action::StartZygote { generation: 2, preload: true }]);
}

#[test]
fn a_lost_zygote_and_a_broken_site_do_not_spin() {
    let mut sea = Sea::serving();
    sea.on(Event::ZygoteExited(1, "was killed".into()));
    assert_eq!(sea.wait(), [Action::StartZygote { generation: 2, preload: true }]);
    let actions = sea.on(Event::ImportFailed(2, broken()));
    assert!(!actions.iter().any(|action| matches!(action, Action::StartZygote { .. })));
    let before = sea.1;
    assert_eq!(sea.wait(), [Action::StartZygote { generation: 3, preload: true }]);
    assert!(sea.1 - before >= BACKOFF);
}

#[test]
fn an_import_that_hangs_gives_way_to_the_next_reload() {
    let mut sea = Sea::serving();
    sea.on(Event::Reload);
    sea.1 += HANGS;
    let actions = sea.on(Event::Reload);
    assert!(matches!(
        &actions[..],
        [Action::StopZygote(2), Action::ReloadFailed(_), Action::StartZygote { generation: 3, .. }]
    ));
}

#[test]
fn workers_of_a_failed_reload_are_killed_until_they_are_gone() {
    let mut sea = Sea::serving();
    sea.on(Event::Reload);
    sea.on(Event::ZygoteReady(2));
    let actions = sea.on(Event::ImportFailed(2, broken()));
    assert!(actions.contains(&Action::Kill(2)) && actions.contains(&Action::Kill(3)));
    sea.on(Event::WorkerExited(2, "was killed".into()));
    assert!(sea.wait().contains(&Action::Kill(3)));
}

#[test]
fn a_worker_that_was_asked_to_leave_is_replaced_at_once() {
    let mut sea = Sea::serving();
    assert_eq!(
        sea.on(Event::WorkerTerminated(1)),
        [Action::Drain { slot: 1, why: Some(Restart::Terminated) }, Action::Fork { generation: 1, slot: 2 }]
    );
    assert_eq!(sea.on(Event::WorkerExited(1, "exited with code 0".into())), []);
}
