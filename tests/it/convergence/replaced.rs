//! A replace that fails leaves the old machine running with its work, and one that is cut short anywhere
//! comes to one machine, which has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bottle::apply::Stop;
use bottle::backend::memory::{Entry, Fault, Object, When};
use bottle::backend::{BackendError, MainState};
use bottle::model::{InstanceState, ResourceKind};
use tokio::sync::Notify;

use super::world::{PLAIN, Wish, World, agent};
use super::{calm, converges, on_a_runtime};

/// On Docker, with a way out and a command, from the first image.
const BUSY: Wish = Wish { backend: 1, command: 1, network: 1, sidecar: 1, ..PLAIN };
const MINE: &str = "/home/node/mine";

/// A sandbox that has work.
async fn world() -> (World, Object) {
    let mut world = World::new(7).await;
    world.wishes.insert(agent(0), BUSY);
    converges(&world).await;
    let [old] = &*machines(&world) else { panic!("one machine") };
    let file = Entry::file("mine", 0o644, 1000, 1000);
    world.engines[0].write_inside(&old.id, MINE, file).expect("it is written");
    (world, old.clone())
}

fn machines(world: &World) -> Vec<Object> {
    let ours = world.ours().into_iter().map(|(_, object)| object);
    ours.filter(|object| object.resource == ResourceKind::Machine).collect()
}

fn has_work(object: &Object) -> bool {
    object.files.read(MINE).is_ok_and(|text| text[..] == *b"mine")
}

/// The old machine is the only one, and as it was.
fn runs_on(world: &World, old: &Object, what: &str) {
    let all = machines(world);
    assert_eq!(all.len(), 1, "{what}: {:?}", all.iter().map(|o| &o.name).collect::<Vec<_>>());
    let now = &all[0];
    assert_eq!((&now.id, &now.name), (&old.id, &old.name), "{what}");
    assert_eq!((&now.state, &now.main), (&InstanceState::Running, &MainState::Running), "{what}");
    assert!(has_work(now), "{what}");
}

async fn arrives(world: &mut World, old: &Object, what: &str) {
    calm(world);
    converges(world).await;
    let all = machines(world);
    assert!(all.len() == 1 && all[0].id != old.id && has_work(&all[0]), "{what}");
    assert_eq!(all[0].name, old.name, "{what}");
}

#[test]
fn a_replace_that_fails_leaves_the_old_machine_running() {
    let faults = [
        ("prepare", When::Before),
        ("stream_out", When::Before),
        ("quiesce", When::Before),
        ("quiesce", When::Midway),
        ("quiesce", When::After),
        ("set_aside", When::Before),
        ("set_aside", When::Midway),
        ("set_aside", When::After),
        ("create", When::Before),
        ("start", When::Before),
        ("start", When::After),
        ("identity", When::Before),
        ("copy_in", When::Before),
        ("copy_in", When::Midway),
        ("copy_in", When::After),
    ];
    for (call, when) in faults {
        on_a_runtime(async {
            let what = format!("{call} {when:?}");
            let (mut world, old) = world().await;
            world.wishes.insert(agent(0), Wish { image: 1, ..BUSY });
            // Again and again, as `watch` would.
            for _ in 0..3 {
                let error = BackendError::failed(call, anyhow::anyhow!("a queued fault"));
                world.engines[0].fault(Fault::fail(call, when, error));
                let (_, report) = world.look_and_carry_out(&Stop::default()).await;
                assert!(!report.succeeded(), "{what}");
                runs_on(&world, &old, &what);
                assert_eq!(world.engines[0].no_faults(), 0, "{what}: it has struck");
            }
            arrives(&mut world, &old, &what).await;
        });
    }
}

/// What nobody knows the outcome of is set right by the next pass.
#[test]
fn what_was_made_and_not_heard_of_goes_with_the_next_pass() {
    for (call, when) in
        [("create", When::Midway), ("create", When::After), ("bring_back", When::Before)]
    {
        on_a_runtime(async {
            let what = format!("{call} {when:?}");
            let (mut world, old) = world().await;
            world.wishes.insert(agent(0), Wish { image: 1, ..BUSY });
            let fault = |call, when| {
                let error = BackendError::failed(call, anyhow::anyhow!("a queued fault"));
                world.engines[0].fault(Fault::fail(call, when, error));
            };
            fault(call, when);
            if call == "bring_back" {
                fault("start", When::Before);
            }
            let (_, report) = world.look_and_carry_out(&Stop::default()).await;
            assert!(!report.succeeded(), "{what}");
            // The tree wants the old one again.
            world.wishes.insert(agent(0), BUSY);
            calm(&mut world);
            converges(&world).await;
            runs_on(&world, &old, &what);
            world.wishes.insert(agent(0), Wish { image: 1, ..BUSY });
            arrives(&mut world, &old, &what).await;
        });
    }
}

/// Killed at every call, and then wanted as it was, or as it is to be; and the first signal leaves nothing down.
#[test]
fn a_replace_that_is_cut_short_anywhere_converges() {
    let mut ended = false;
    let mut at = 0;
    while !ended {
        for (kill, back) in [(true, at % 2 == 0), (false, false)] {
            on_a_runtime(async {
                let what = format!("at {at}, kill {kill}, back {back}");
                let (mut world, old) = world().await;
                world.wishes.insert(agent(0), Wish { image: 1, ..BUSY });
                let (calls, stop) = (AtomicUsize::new(0), Stop::default());
                let (killed, drain) = (Arc::new(Notify::new()), stop.drain.clone());
                let (kills, struck) = (killed.clone(), Arc::new(AtomicUsize::new(0)));
                let strikes = struck.clone();
                world.engines[0].observe_calls(move |_, _| {
                    if calls.fetch_add(1, Ordering::SeqCst) == at {
                        strikes.store(1, Ordering::SeqCst);
                        if kill { kills.notify_one() } else { drain.cancel() }
                    }
                });
                tokio::select! {
                    biased;
                    () = killed.notified() => {}
                    _ = world.look_and_carry_out(&stop) => {}
                }
                world.engines[0].observe_calls(|_, _| {});
                ended |= struck.load(Ordering::SeqCst) == 0;
                let all = machines(&world);
                assert!(all.iter().any(has_work), "{what}");
                let up = all.iter().filter(|o| o.state == InstanceState::Running).count();
                assert!(up <= 1, "{what}: two live places");
                assert!(kill || up == 1, "{what}: a signal leaves nothing down");
                if back {
                    world.wishes.insert(agent(0), BUSY);
                    calm(&mut world);
                    converges(&world).await;
                    let all = machines(&world);
                    assert!(all.len() == 1 && has_work(&all[0]), "{what}");
                } else {
                    calm(&mut world);
                    converges(&world).await;
                    let all = machines(&world);
                    assert!(all.len() == 1 && has_work(&all[0]), "{what}");
                    assert!(all[0].id != old.id && all[0].name == old.name, "{what}");
                }
            });
        }
        at += 1;
    }
    assert!(at > 15, "{at}");
}

/// What was set aside goes with its sandbox, and its work stays as a snapshot.
#[test]
fn what_was_set_aside_goes_with_its_sandbox() {
    on_a_runtime(async {
        let (mut world, _) = world().await;
        world.wishes.insert(agent(0), Wish { image: 1, ..BUSY });
        let (killed, stop) = (Arc::new(Notify::new()), Stop::default());
        let kills = killed.clone();
        world.engines[0].observe_calls(move |call, when| {
            if call.name == "set_aside" && when == When::After {
                kills.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = killed.notified() => {}
            _ = world.look_and_carry_out(&stop) => panic!("it is killed"),
        }
        world.engines[0].observe_calls(|_, _| {});
        world.wishes.clear();
        world.wishes.insert(agent(1), PLAIN);
        calm(&mut world);
        converges(&world).await;
        let memory = world.reconciler.state.tree(&World::owner()).expect("it opens");
        let folder = memory.dir().join("snapshots").join(agent(0).as_str());
        assert_eq!(std::fs::read_dir(folder).expect("there is one").count(), 1);
    });
}
