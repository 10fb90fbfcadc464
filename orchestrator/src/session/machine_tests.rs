//! The machine: its whole table against a golden file, the ways that matter by name, and its invariants under any
//! sequence of events.

use proptest::prelude::*;

use super::*;
use crate::session::record::fixtures::TIMINGS;
use coffer_evidence::seal::ClosedBy;

const START: Timestamp = Timestamp(1_000_000);

fn machine() -> Machine {
    Machine::new(TIMINGS, START)
}

fn user_closes() -> Event {
    Event::CloseRequested(Ending::by_host(Reason::UserClosed))
}

fn sealed_by_host() -> Event {
    Event::EvidenceSealed(Ending::by_host(Reason::UserClosed))
}

/// Feeds events at the start time and returns the effects of each.
fn feed(machine: &mut Machine, events: impl IntoIterator<Item = Event>) -> Vec<Vec<Effect>> {
    events.into_iter().map(|event| machine.handle(event, START)).collect()
}

fn at_ready() -> Machine {
    let mut machine = machine();
    feed(&mut machine, [Event::Begin, Event::Reserved, Event::Launched, Event::GuestOpened, Event::OpeningVerified]);
    assert_eq!(machine.phase(), Phase::Ready);
    machine
}

/// Every state, by the events that lead there.
fn every_state() -> Vec<Machine> {
    let up = [Event::Begin, Event::Reserved, Event::Launched, Event::GuestOpened, Event::OpeningVerified];
    let to_stopping = [&up[..], &[Event::GuestViolated("a leaf".into())]].concat();
    let to_preserving = [&up[..], &[Event::GuestGone(GuestExit::Killed(9))]].concat();
    let to_storing = [&up[..], &[user_closes(), Event::GuestSealed]].concat();
    let paths: Vec<Vec<Event>> = vec![
        vec![],
        up[..1].to_vec(),
        up[..2].to_vec(),
        up[..3].to_vec(),
        up[..4].to_vec(),
        [&up[..4], &[Event::GuestSealed]].concat(),
        up.to_vec(),
        [&up[..], &[user_closes()]].concat(),
        to_storing.clone(),
        [&to_storing[..], &[Event::GuestGone(GuestExit::PoweredOff)]].concat(),
        [&to_storing[..], &[Event::HostRestarted]].concat(),
        [&to_storing[..], &[sealed_by_host()]].concat(),
        to_stopping,
        to_preserving.clone(),
        [&to_preserving[..], &[Event::PrefixStored]].concat(),
        [&to_preserving[..], &[Event::PrefixStored, Event::Scrubbed(vec![])]].concat(),
        [&to_preserving[..], &[Event::PrefixStored, Event::Scrubbed(vec![]), Event::Receipted(None)]].concat(),
    ];
    paths
        .into_iter()
        .map(|events| {
            let mut machine = machine();
            feed(&mut machine, events);
            machine
        })
        .collect()
}

fn every_event() -> Vec<Event> {
    vec![
        Event::Begin,
        Event::Reserved,
        Event::ReserveFailed("r".into()),
        Event::Launched,
        Event::LaunchFailed("l".into()),
        Event::GuestOpened,
        Event::OpeningVerified,
        Event::OpeningRefused("o".into()),
        user_closes(),
        Event::GuestClosing(Ending::by_agent(Reason::IdleTimeout)),
        Event::GuestFailed("f".into()),
        Event::GuestViolated("v".into()),
        Event::GuestSealed,
        sealed_by_host(),
        Event::EvidenceRefused("e".into()),
        Event::LinkLost,
        Event::LinkRestored,
        Event::GuestGone(GuestExit::PoweredOff),
        Event::GuestGone(GuestExit::Reset),
        Event::GuestGone(GuestExit::Panicked),
        Event::GuestGone(GuestExit::Halted),
        Event::GuestGone(GuestExit::Killed(9)),
        Event::GuestGone(GuestExit::Failed(1)),
        Event::GuestGone(GuestExit::OutOfMemory),
        Event::GuestGone(GuestExit::Lost),
        Event::PrefixStored,
        Event::NothingToPreserve("n".into()),
        Event::Scrubbed(vec![]),
        Event::Scrubbed(vec!["cgroup".into()]),
        Event::Receipted(None),
        Event::Receipted(Some("disk".into())),
        Event::DeadlinePassed,
        Event::HostRestarted,
        Event::Adopted,
        Event::AdoptFailed("a".into()),
        Event::Reconnected,
        Event::ReconnectFailed("c".into()),
        Event::HostFailed("h".into()),
        Event::ImageChanged("i".into()),
    ]
}

/// The list above is complete: a new event does not compile here until it is in it.
fn number_of_event_kinds(event: &Event) -> usize {
    match event {
        Event::Begin => 0,
        Event::Reserved => 1,
        Event::ReserveFailed(_) => 2,
        Event::Launched => 3,
        Event::LaunchFailed(_) => 4,
        Event::GuestOpened => 5,
        Event::OpeningVerified => 6,
        Event::OpeningRefused(_) => 7,
        Event::CloseRequested(_) => 8,
        Event::GuestClosing(_) => 9,
        Event::GuestFailed(_) => 10,
        Event::GuestViolated(_) => 11,
        Event::GuestSealed => 12,
        Event::EvidenceSealed(_) => 13,
        Event::EvidenceRefused(_) => 14,
        Event::LinkLost => 15,
        Event::LinkRestored => 16,
        Event::GuestGone(_) => 17,
        Event::PrefixStored => 18,
        Event::NothingToPreserve(_) => 19,
        Event::Scrubbed(_) => 20,
        Event::Receipted(_) => 21,
        Event::DeadlinePassed => 22,
        Event::HostRestarted => 23,
        Event::Adopted => 24,
        Event::AdoptFailed(_) => 25,
        Event::Reconnected => 26,
        Event::ReconnectFailed(_) => 27,
        Event::HostFailed(_) => 28,
        Event::ImageChanged(_) => 29,
    }
}

#[test]
fn a_file_that_changed_is_named_once_whatever_the_guest_ended_with() {
    let why = "vmlinuz: it was changed";
    let ends = [
        Event::GuestGone(GuestExit::Panicked),
        Event::GuestFailed("registers".into()),
        Event::OpeningRefused(format!("refused: {why}")),
    ];
    for end in ends {
        for first in [true, false] {
            let mut machine = machine();
            feed(&mut machine, [Event::Begin, Event::Reserved, Event::Launched, Event::GuestOpened]);
            let told = Event::ImageChanged(why.into());
            let both = if first { [told.clone(), end.clone()] } else { [end.clone(), told.clone()] };
            let effects = feed(&mut machine, both.into_iter().chain([told]));
            assert!(effects[usize::from(!first)].is_empty(), "it decides nothing: {effects:?}");
            let message = machine.message().expect("a message");
            // The host's own refusal says it in its words.
            let refused = matches!(end, Event::OpeningRefused(_));
            assert_eq!(message.matches(why).count(), if refused && first { 2 } else { 1 }, "{message}");
            assert!(refused || message.contains("not what was checked before the launch"), "{message}");
        }
    }
}

#[test]
fn the_whole_table_is_as_written_down() {
    let mut kinds: Vec<usize> = every_event().iter().map(number_of_event_kinds).collect();
    kinds.dedup();
    assert_eq!(kinds, (0..30).collect::<Vec<_>>(), "every kind of event is in the table");

    let mut table = String::new();
    for before in every_state() {
        table.push_str(&format!("{:?}\n", before.state));
        for event in every_event() {
            let mut after = before.clone();
            let now = match event {
                Event::DeadlinePassed => before.deadline().unwrap_or(START),
                _ => START,
            };
            let effects = after.handle(event.clone(), now);
            if after == before && effects.is_empty() {
                continue;
            }
            let ending = after.ending().map(|e| format!(" [{} by {}]", e.reason, e.closed_by)).unwrap_or_default();
            table.push_str(&format!("  {event:?} -> {:?}{ending} {effects:?}\n", after.state));
        }
    }
    let golden = include_str!("machine_table.txt");
    if table != golden {
        let found = std::env::temp_dir().join("coffer-machine-table.txt");
        std::fs::write(&found, &table).expect("write the table found");
        panic!("the table differs from machine_table.txt; found: {}", found.display());
    }
}

#[test]
fn the_orderly_way_ends_sealed() {
    let mut machine = at_ready();
    let effects = feed(
        &mut machine,
        [user_closes(), Event::GuestSealed, sealed_by_host(), Event::GuestGone(GuestExit::PoweredOff)],
    );
    assert_eq!(
        effects,
        [
            vec![Effect::RefuseCalls, Effect::AskGuestToClose],
            vec![Effect::PreserveSealed],
            vec![Effect::AcknowledgeStored],
            vec![Effect::EndCalls, Effect::Scrub],
        ]
    );
    feed(&mut machine, [Event::Scrubbed(vec![]), Event::Receipted(None)]);
    assert_eq!(machine.outcome(), Some(Outcome::Sealed));
    assert_eq!(machine.ending(), Some(Ending::by_host(Reason::UserClosed)));
    assert_eq!(machine.deadline(), None);
}

#[test]
fn a_machine_killed_mid_call_ends_calls_and_keeps_a_prefix() {
    let mut machine = at_ready();
    let effects = machine.handle(Event::GuestGone(GuestExit::Killed(9)), START);
    assert_eq!(effects, [Effect::EndCalls, Effect::PreservePrefix]);
    assert_eq!(machine.handle(Event::PrefixStored, START), [Effect::Scrub]);
    assert_eq!(machine.handle(Event::Scrubbed(vec![]), START), [Effect::WriteReceipt]);
    machine.handle(Event::Receipted(None), START);
    assert_eq!(machine.outcome(), Some(Outcome::Aborted));
    assert_eq!(machine.ending(), Some(Ending::by_host(Reason::HostLost)));
}

#[test]
fn a_guest_that_refuses_its_boot_disk_is_not_called_a_boot_timeout() {
    let mut machine = machine();
    feed(&mut machine, [Event::Begin, Event::Reserved, Event::Launched]);
    machine.handle(Event::GuestGone(GuestExit::PoweredOff), START);
    assert_eq!(machine.ending(), Some(Ending { reason: Reason::AttestationFailed, closed_by: ClosedBy::Agent }));
}

#[test]
fn a_close_during_launch_waits_for_the_launch_to_answer() {
    let mut machine = machine();
    feed(&mut machine, [Event::Begin, Event::Reserved]);
    assert_eq!(machine.handle(user_closes(), START), [Effect::EndCalls, Effect::StopGuest]);
    assert_eq!(machine.phase(), Phase::Scrubbing);
    assert_eq!(machine.handle(Event::Launched, START), [Effect::StopGuest], "it came up all the same: kill it");
    assert_eq!(machine.handle(Event::GuestGone(GuestExit::Killed(9)), START), [Effect::Scrub]);
}

#[test]
fn a_bundle_stored_while_aborting_counts_as_sealed() {
    let mut machine = at_ready();
    feed(&mut machine, [user_closes(), Event::GuestSealed, Event::DeadlinePassed]);
    let deadline = machine.deadline().expect("open");
    assert_eq!(machine.handle(Event::DeadlinePassed, deadline), [Effect::EndCalls, Effect::StopGuest]);
    feed(&mut machine, [Event::GuestGone(GuestExit::Killed(9)), sealed_by_host()]);
    feed(&mut machine, [Event::Scrubbed(vec![]), Event::Receipted(None)]);
    assert_eq!(machine.outcome(), Some(Outcome::Sealed));
    assert_eq!(machine.ending(), Some(Ending::by_host(Reason::UserClosed)));
}

#[test]
fn a_restart_takes_a_launched_machine_over_and_goes_on_where_it_was() {
    let mut ready = at_ready();
    let before = ready.deadline();
    assert_eq!(ready.handle(Event::HostRestarted, START), [Effect::Adopt]);
    assert_eq!(ready.deadline(), before, "the time to live runs on");
    assert_eq!(ready.handle(Event::Adopted, START), [Effect::Reconnect]);
    assert_eq!(ready.deadline(), Some(START.after(TIMINGS.silence)), "the agent is expected back");
    feed(&mut ready, [Event::LinkRestored]);
    assert_eq!(ready.handle(Event::GuestOpened, START), [], "heard before");
    assert_eq!(ready.handle(Event::Reconnected, START), [Effect::AcceptCalls]);
    assert_eq!((ready.phase(), ready.deadline()), (Phase::Ready, before));

    // The opening was being verified: it is heard and verified again.
    let mut verifying = machine();
    feed(&mut verifying, [Event::Begin, Event::Reserved, Event::Launched, Event::GuestOpened, Event::HostRestarted]);
    assert_eq!(verifying.handle(Event::Adopted, START), []);
    assert_eq!(verifying.handle(Event::GuestOpened, START), [Effect::VerifyOpening]);

    // It had been asked to close: it is asked again.
    let mut draining = at_ready();
    feed(&mut draining, [user_closes(), Event::HostRestarted]);
    assert_eq!(draining.handle(Event::Adopted, START), [Effect::AskGuestToClose]);

    // Its bundle was being stored, with and without the guest.
    let mut storing = at_ready();
    feed(&mut storing, [user_closes(), Event::GuestSealed, Event::HostRestarted, Event::Adopted]);
    assert_eq!(storing.handle(Event::GuestSealed, START), [Effect::PreserveSealed]);
    let mut alone = at_ready();
    feed(&mut alone, [user_closes(), Event::GuestSealed, Event::GuestGone(GuestExit::PoweredOff)]);
    assert_eq!(alone.handle(Event::HostRestarted, START), [Effect::PreserveSealed]);

    // It was stored: the guest waits for that word.
    feed(&mut storing, [sealed_by_host(), Event::HostRestarted]);
    assert_eq!(storing.handle(Event::Adopted, START), [Effect::AcknowledgeStored]);
}

#[test]
fn a_machine_that_cannot_be_taken_over_is_ended_and_none_is_launched_twice() {
    let gone = || Event::AdoptFailed("it is gone".into());
    for before in every_state() {
        let mut after = before.clone();
        let mut effects = after.handle(Event::HostRestarted, START);
        if effects.contains(&Effect::Adopt) {
            effects.extend(after.handle(gone(), START));
        }
        assert!(!effects.contains(&Effect::Launch) && !effects.contains(&Effect::Reserve), "{:?}", before.state);
        match before.state {
            State::Closed => assert_eq!(effects, []),
            State::Sealing(Sealing::Awaiting | Sealing::Storing | Sealing::StoringAlone) => {
                assert_eq!(effects.last(), Some(&Effect::PreserveSealed), "its last word is here");
            }
            _ => assert_eq!(effects.last(), Some(&Effect::StopGuest), "{:?}", before.state),
        }
    }
}

#[test]
fn a_guest_that_sealed_before_it_was_verified_goes_straight_to_its_evidence() {
    let mut machine = machine();
    feed(&mut machine, [Event::Begin, Event::Reserved, Event::Launched, Event::GuestOpened, Event::GuestSealed]);
    assert_eq!(machine.phase(), Phase::Attesting);
    let effects = machine.handle(Event::OpeningVerified, START);
    assert_eq!(effects, [Effect::RefuseCalls, Effect::PreserveSealed], "no call is taken");
    assert_eq!(machine.phase(), Phase::Sealing);
}

#[test]
fn a_lost_control_channel_ends_the_session_unless_it_comes_back() {
    let mut machine = at_ready();
    machine.handle(Event::LinkLost, START);
    assert_eq!(machine.deadline(), Some(START.after(TIMINGS.silence)));
    let mut back = machine.clone();
    back.handle(Event::LinkRestored, START);
    assert!(back.handle(Event::DeadlinePassed, START.after(TIMINGS.silence)).is_empty());
    assert_eq!(back.phase(), Phase::Ready);
    machine.handle(Event::DeadlinePassed, START.after(TIMINGS.silence));
    assert_eq!(machine.ending(), Some(Ending::by_host(Reason::GuestUnresponsive)));
}

#[test]
fn an_early_deadline_event_changes_nothing() {
    for before in every_state() {
        let mut after = before.clone();
        assert!(after.handle(Event::DeadlinePassed, START).is_empty());
        assert_eq!(after, before);
    }
}

#[test]
fn the_journal_form_reads_back() {
    for machine in every_state() {
        let text = serde_json::to_string(&machine).expect("serialise");
        assert_eq!(serde_json::from_str::<Machine>(&text).expect("read back"), machine);
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    proptest::sample::select(every_event())
}

/// Runs a sequence and then lets every deadline pass until the machine is closed.
fn run(events: &[Event]) -> (Machine, Vec<(Event, Vec<Effect>)>, usize) {
    let mut machine = machine();
    let mut now = START;
    let mut history = Vec::new();
    let mut closings = 0;
    let mut step = |machine: &mut Machine, event: Event, now: Timestamp| {
        let was_closed = machine.phase() == Phase::Closed;
        let effects = machine.handle(event.clone(), now);
        if machine.phase() == Phase::Closed && !was_closed {
            closings += 1;
        }
        assert!(!(was_closed && (machine.phase() != Phase::Closed || !effects.is_empty())), "closed_is_terminal");
        history.push((event, effects));
    };
    for event in events {
        if *event == Event::DeadlinePassed {
            now = machine.deadline().unwrap_or(now).max(now);
        }
        step(&mut machine, event.clone(), now);
    }
    for _ in 0..16 {
        let Some(deadline) = machine.deadline() else { break };
        now = deadline.max(now);
        step(&mut machine, Event::DeadlinePassed, now);
    }
    (machine, history, closings)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_events_reaches_closed_exactly_once(events in proptest::collection::vec(any_event(), 0..40)) {
        let (machine, _, closings) = run(&events);
        prop_assert_eq!(machine.phase(), Phase::Closed);
        prop_assert_eq!(closings, 1);
        prop_assert!(machine.outcome().is_some());
    }

    #[test]
    fn every_launched_vm_is_scrubbed_exactly_once(events in proptest::collection::vec(any_event(), 0..40)) {
        let restarts = events.iter().filter(|e| **e == Event::HostRestarted).count();
        let (_, history, _) = run(&events);
        let count = |wanted: Effect| history.iter().flat_map(|(_, e)| e).filter(|e| **e == wanted).count();
        prop_assert!(count(Effect::Launch) <= 1);
        prop_assert!(count(Effect::Scrub) >= 1, "whatever was held is removed");
        prop_assert!(count(Effect::Scrub) <= 1 + restarts, "once per life of the control plane");
        let all: Vec<Effect> = history.iter().flat_map(|(_, e)| e).copied().collect();
        let last_scrub = all.iter().rposition(|e| *e == Effect::Scrub);
        let last_launch = all.iter().rposition(|e| *e == Effect::Launch);
        prop_assert!(last_launch < last_scrub);
    }

    #[test]
    fn no_call_runs_before_attestation(events in proptest::collection::vec(any_event(), 0..40)) {
        let (_, history, _) = run(&events);
        let verified = history.iter().position(|(e, _)| *e == Event::OpeningVerified);
        let accepts = history.iter().position(|(_, effects)| effects.contains(&Effect::AcceptCalls));
        if let Some(accepts) = accepts {
            prop_assert!(verified.is_some_and(|v| v <= accepts));
        }
        let mut ended = false;
        for effect in history.iter().flat_map(|(_, e)| e) {
            ended |= matches!(effect, Effect::RefuseCalls | Effect::EndCalls);
            prop_assert!(!(ended && *effect == Effect::AcceptCalls), "nothing_is_accepted_after_seal");
        }
    }

    #[test]
    fn sealed_only_with_a_stored_sealed_bundle(events in proptest::collection::vec(any_event(), 0..40)) {
        let (machine, history, _) = run(&events);
        let stored = history.iter().any(|(e, _)| matches!(e, Event::EvidenceSealed(_)));
        if machine.outcome() == Some(Outcome::Sealed) {
            prop_assert!(stored);
            prop_assert!(machine.ending().is_some());
        }
    }
}
