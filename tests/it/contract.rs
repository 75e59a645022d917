//! The contract of [`Backend`], written down: every backend passes it, real and fake.
//!
//! A backend brings a [`Fixture`] and names the suite once:
//!
//! ```text
//! contract_suite!(docker, fixture, lacks: []);
//! ```
//!
//! which makes one test of every case. What a backend cannot show, it says in `lacks`, and a test
//! compares that with what its fixture says; a real backend lacks nothing that it could have.
//! Where a machine is dear, the suite ends with `together`: then the cases that leave a machine as
//! they found it are one test, on one machine.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use bottle::backend::{
    Backend, BackendError, Depth, ExecOutput, ExecSpec, ExecUser, Observation, Progress, Scope,
};
use bottle::model::{
    BackendKind, ImageRef, Instance, InstanceState, MachineSpec, Ownership, ResourceSpec,
    Resources, Restart, SandboxId,
};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::support;

/// A guest's shell that replaces the asked-for values by what stands on its stdin.
pub(crate) const ENV_REPLACE: &str =
    "umask 077; cd /run/bottle && new=env.new.$$ && rm -rf $new && cat > $new && mv -f $new env";

pub(crate) mod docker;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod images;
pub(crate) mod lifecycle;
pub(crate) mod main_process;
mod memory;
pub(crate) mod ownership;
pub(crate) mod sidecar;
pub(crate) mod smolmachines;
mod tarball;

/// What a backend must have for some of the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// Any program of the image runs, on a real kernel.
    Userland,
    /// Others can make objects beside ours: foreign ones, other owners', other state folders'.
    Outsiders,
    /// It can be out of reach.
    Unreachable,
    /// A machine can be frozen from outside.
    Pause,
    /// Image tars and root folders are imported.
    Import,
    /// A machine can have a sidecar.
    Sidecars,
}

/// One backend, ready to be tested, in a corner of its own.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// The backend.
    fn backend(&self) -> &dyn Backend;

    /// What it cannot show.
    fn lacks(&self) -> &[Capability];

    /// How long one case may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    /// How many machines may start at the same time.
    fn at_once(&self) -> usize {
        usize::MAX
    }

    /// Of limits that were asked for, those under which a machine is to run.
    fn enforced(&self, asked: Resources) -> Resources {
        asked
    }

    /// Whether anything can be left of what was done in a scope.
    fn touched(&self, _scope: &Scope) -> bool {
        true
    }

    /// Our scope: unique to this fixture.
    fn scope(&self) -> &Scope;

    /// Another owner, of the same state folder. Its name does not begin with ours.
    fn other_owner(&self) -> &Scope;

    /// Our owner, by another state folder.
    fn other_state(&self) -> &Scope;

    /// An image with busybox's programs, root and node (uid 1000, home /home/node), naming no user.
    fn image(&self) -> ImageRef;

    /// An image that is not to be had.
    fn absent_image(&self) -> ImageRef;

    /// The same image as tar and as folder, where the backend imports them.
    fn imports(&self) -> Vec<ImageRef>;

    /// Stops a machine, as somebody else would.
    async fn stop(&self, machine: &Instance);

    /// Freezes a machine, as somebody else would.
    async fn pause(&self, machine: &Instance);

    /// Removes a machine, as somebody else would.
    async fn remove(&self, machine: &Instance);

    /// Makes an object of somebody else's under this name; returns what `describe` knows it by.
    async fn add_foreign(&self, name: &str) -> String;

    /// All that can be said of an object, ours or foreign, by its engine's id; `None`: it is gone.
    async fn describe(&self, id: &str) -> Option<String>;

    /// The same backend, looking where no engine answers.
    fn unreachable(&self) -> Box<dyn Backend>;

    /// The limits under which a running machine really is.
    async fn limits(&self, machine: &Instance) -> Resources;

    /// Removes what was made past the backend. What the scopes own is removed before.
    async fn cleanup(&self);
}

/// The body of a case.
pub(crate) type Body = for<'a> fn(&'a dyn Fixture) -> LocalBoxFuture<'a, ()>;

/// Whether a backend can show what a case needs; else it is said to be left out.
fn fits(backend: &str, case: &str, needs: &[Capability], fixture: &dyn Fixture) -> bool {
    let missing = needs.iter().find(|need| fixture.lacks().contains(need));
    if let Some(missing) = missing {
        support::left_out(
            &format!("contract of {backend}: {case}"),
            &format!("it cannot show {missing:?}"),
        );
    }
    missing.is_none()
}

/// How a case ended: `Err` with what it panicked with.
async fn attempt(case: &str, fixture: &dyn Fixture, body: Body) -> std::thread::Result<()> {
    let body = tokio::time::timeout(fixture.patience(), body(fixture));
    match AssertUnwindSafe(body).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Box::new(format!("{case} did not end"))),
        Err(panic) => Err(panic),
    }
}

/// Runs one case, and cleans up however it ends.
pub(crate) async fn run(
    backend: &str,
    case: &str,
    needs: &[Capability],
    fixture: Option<Box<dyn Fixture>>,
    body: Body,
) {
    // Whoever returns none has said what is left out.
    let Some(fixture) = fixture else { return };
    let fixture = fixture.as_ref();
    if !fits(backend, case, needs, fixture) {
        return;
    }
    let ended = attempt(case, fixture, body).await;
    let cleaned = clean_up(fixture).await;
    match ended {
        Ok(()) => cleaned.expect("cleaning up"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs cases one after the other on the machine that the first of them makes. One that fails does
/// not keep the others from running: they get a new machine.
pub(crate) async fn run_together(
    backend: &str,
    fixture: Option<Box<dyn Fixture>>,
    cases: &[(&str, &[Capability], Body)],
) {
    let Some(fixture) = fixture else { return };
    let fixture = fixture.as_ref();
    let mut failed = Vec::new();
    for (case, needs, body) in cases {
        if !fits(backend, case, needs, fixture) {
            continue;
        }
        let begun = std::time::Instant::now();
        let ended = attempt(case, fixture, *body).await.is_ok() && forget(fixture).await;
        let word = if ended { "ok" } else { "FAILED" };
        support::say(&format!("{backend}: {case}: {word}, {} s", begun.elapsed().as_secs()));
        if !ended {
            failed.push(*case);
            wipe(fixture.backend(), fixture.scope()).await.expect("cleaning up");
        }
    }
    clean_up(fixture).await.expect("cleaning up");
    assert!(failed.is_empty(), "of {} cases these failed: {failed:?}", cases.len());
}

/// Takes away what a case left in the machine, for the next one.
async fn forget(f: &dyn Fixture) -> bool {
    const ALL: &str = "rm -rf /home/node/* /home/node/.[!.]* /tmp/* /etc/bottle /run/bottle/env";
    let seen = f.backend().observe(f.scope(), Depth::Listing).await;
    let Some(on) = seen.ok().and_then(|mut seen| seen.instances.pop()) else { return false };
    let spec = ExecSpec { user: ExecUser::Root, ..ExecSpec::new(["sh", "-c", ALL]) };
    let ended = f.backend().exec(f.scope(), &on, &spec, Bytes::new()).await;
    ended.is_ok_and(|ended| ended.code == 0)
}

async fn clean_up(fixture: &dyn Fixture) -> Result<(), BackendError> {
    let longer = ownership::longer(fixture.scope());
    let mut cleaned = Ok(());
    for scope in [fixture.scope(), fixture.other_owner(), fixture.other_state(), &longer] {
        if fixture.touched(scope) {
            cleaned = cleaned.and(wipe(fixture.backend(), scope).await);
        }
    }
    fixture.cleanup().await;
    cleaned
}

/// Removes all that a scope owns.
async fn wipe(backend: &dyn Backend, scope: &Scope) -> Result<(), BackendError> {
    let seen = backend.observe(scope, Depth::Listing).await?;
    let mut ours = seen.instances;
    ours.retain(|instance| instance.ownership == Ownership::Ours);
    // What stands on another goes before it.
    ours.sort_by_key(|instance| std::cmp::Reverse(instance.resource));
    for instance in &ours {
        backend.teardown(scope, instance).await?;
    }
    for leftover in &seen.leftovers {
        backend.prune(scope, leftover).await?;
    }
    Ok(())
}

/// The sandbox that most cases are about.
pub(crate) fn ada() -> SandboxId {
    named("ada")
}

fn named(name: &str) -> SandboxId {
    SandboxId::new(name).expect("the tests use valid names")
}

/// A machine that idles.
fn machine(f: &dyn Fixture, sandbox: SandboxId) -> MachineSpec {
    MachineSpec {
        sandbox,
        backend: f.backend().kind(),
        image: f.image(),
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::from([("GREETING".to_owned(), "hello 'there'".to_owned())]),
        connected: false,
        waits_for_env: false,
        resources: Resources { millicpus: 500, memory: 256 << 20, pids: 64, disk: None },
        workdir: None,
        mount: None,
        user: None,
        command: Vec::new(),
        restart: Restart::default(),
        overlay: None,
    }
}

/// Prepares and creates a machine in a scope.
async fn create_in(f: &dyn Fixture, scope: &Scope, spec: &MachineSpec) -> Instance {
    f.backend().prepare(scope, spec, &Progress::silent()).await.expect("preparing");
    let spec = ResourceSpec::Machine(spec.clone());
    f.backend().create(scope, &spec).await.expect("creating")
}

/// Prepares and creates a machine.
async fn create(f: &dyn Fixture, spec: &MachineSpec) -> Instance {
    create_in(f, f.scope(), spec).await
}

/// Starts a machine that was created or stopped.
async fn start(f: &dyn Fixture, instance: &Instance) -> Instance {
    let started = f.backend().start(f.scope(), instance).await.expect("starting");
    assert_eq!(started.state, InstanceState::Running);
    assert_eq!(started.id, instance.id);
    started
}

/// An idling machine that runs.
async fn running(f: &dyn Fixture) -> Instance {
    let created = create(f, &machine(f, ada())).await;
    start(f, &created).await
}

/// What our scope sees.
async fn observe(f: &dyn Fixture) -> Observation {
    f.backend().observe(f.scope(), Depth::Listing).await.expect("observing")
}

/// The one object that our scope sees.
async fn only(f: &dyn Fixture) -> Instance {
    let mut seen = observe(f).await.instances;
    assert_eq!(seen.len(), 1, "{seen:#?}");
    seen.remove(0)
}

/// Runs a command as the sandbox's user.
async fn exec(
    f: &dyn Fixture,
    on: &Instance,
    argv: &[&str],
    stdin: impl Into<Bytes>,
) -> ExecOutput {
    let spec = ExecSpec::new(argv.iter().copied());
    f.backend().exec(f.scope(), on, &spec, stdin.into()).await.expect("running a command")
}

/// A command that prints a variable of its environment. Not every busybox has `printenv`; the fake
/// has nothing else.
fn printenv(f: &dyn Fixture, name: &str) -> Vec<String> {
    let argv: &[&str] = if is_real(f.backend().kind()) {
        &["sh", "-c", "eval \"printf '%s\\n' \\\"\\$$1\\\"\"", "sh", name]
    } else {
        &["printenv", name]
    };
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits until `probe` gives a value, as long as a slow machine may take.
async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(value) = probe().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never happened: {what}");
}

/// Whether the backend is the fake one.
pub(crate) fn is_real(kind: BackendKind) -> bool {
    kind != BackendKind::Memory
}

/// Makes one test of every case of the contract, in a module named after the backend.
///
/// `$fixture` is an `async fn() -> Option<Box<dyn Fixture>>`; it returns none where the backend
/// cannot be tested, after it has said so by `support::left_out`.
macro_rules! contract_suite {
    ($backend:ident, $fixture:path, lacks: [$($lacks:ident),*] $(, $together:ident)?) => {
        $crate::contract::contract_suite! { @suite $backend $fixture, [$($lacks),*], [$($together)?],
            alone {
                lifecycle::nothing_is_observed_as_nothing [];
                lifecycle::what_is_created_is_observed_as_it_was_made [];
                lifecycle::creating_twice_makes_one [];
                lifecycle::creating_over_another_hash_fails_and_leaves_it [];
                lifecycle::teardown_twice_is_teardown_once [];
                lifecycle::teardown_of_what_never_started [];
                lifecycle::teardown_spares_what_came_after [];
                lifecycle::removed_outside_is_gone [];
                lifecycle::paused_outside_is_unpaused_by_start [Pause];
                lifecycle::a_fresh_machine_shows_no_drift [];
                lifecycle::several_machines_are_kept_apart [];
                lifecycle::limits_change_while_it_runs_on [];
                ownership::a_foreign_object_is_a_conflict_and_untouched [Outsiders];
                ownership::another_owner_is_invisible [Outsiders];
                ownership::another_owner_is_never_acted_on [Outsiders];
                ownership::owners_whose_names_run_into_each_other [Outsiders];
                ownership::another_state_folder_is_seen_as_such [Outsiders];
                ownership::what_was_adopted_is_ours [Outsiders];
                ownership::out_of_reach_is_an_error_and_not_nothing [Unreachable];
                images::an_absent_image_touches_nothing [];
                images::preparing_twice_is_fine [];
                images::tars_and_folders_are_images_too [Import];
                images::an_import_goes_when_nothing_stands_on_it [Import];
                exec::environment_user_and_folder [];
                exec::the_sandboxs_user [];
                exec::what_does_not_run_runs_nothing [];
                files::files_need_a_running_machine [];
                main_process::it_waits_until_the_guest_is_ready [];
                main_process::it_runs_again_after_a_restart [];
                main_process::a_quiesced_machine_gives_out_its_files_and_writes_none [Userland];
                main_process::one_that_ends_well_is_completed [];
                main_process::one_that_fails_and_stays_down [];
                main_process::one_that_fails_is_started_again [];
                main_process::it_waits_for_asked_for_values [];
                main_process::another_takes_its_place [];
                main_process::how_another_ended_says_nothing [];
                main_process::it_gets_its_environment [Userland];
                main_process::its_output_is_the_log [];
                sidecar::its_parts_are_observed_as_they_were_made [Sidecars];
                sidecar::creating_its_parts_twice_makes_one_of_each [Sidecars];
                sidecar::one_that_was_started_anew_has_forgotten [Sidecars];
                sidecar::it_is_replaced_beside_its_running_machine [Sidecars];
                sidecar::tearing_down_its_parts_leaves_nothing [Sidecars];
                sidecar::what_is_no_sidecar_cannot_be_loaded [];
                sidecar::that_of_another_owner_is_never_acted_on [Sidecars, Outsiders];
            }
            together {
                main_process::without_a_command_it_idles [];
                lifecycle::limits_are_set [];
                lifecycle::starting_twice_is_starting_once [];
                exec::exit_codes_are_the_commands [];
                exec::a_signal_is_128_and_its_number [];
                exec::streams_are_kept_apart [];
                exec::stdin_arrives_whole [];
                exec::output_is_bounded [];
                exec::attached_commands_have_exit_codes [];
                exec::delivered_values_are_loaded_before_a_command [];
                exec::plain_values_stand_beside_those_that_are_asked_for [];
                exec::walls [Userland];
                files::copied_over_what_is_there [];
                files::wiped_before_it_is_unpacked [];
                files::wiping_a_symlink_spares_its_target [];
                files::folders_that_exist_keep_owner_and_mode [];
                files::no_name_leads_out [];
                files::no_symlink_leads_out [];
                files::copied_out_as_it_is [];
                files::streamed_out_as_it_is [];
                files::copied_out_up_to_a_limit [];
                files::the_prompt_is_the_users_own [];
                files::copied_in_as_packed [];
                exec::the_volatile_folder_is_private_and_forgets [];
                lifecycle::boot_changes_with_every_start_and_only_then [];
                lifecycle::stopped_outside_is_stopped_and_keeps_its_files [];
            }
        }
    };
    (@suite $backend:ident $fixture:path, [$($lacks:ident),*], [],
        alone { $($alone:tt)* } together { $($together:tt)* }) => {
        $crate::contract::contract_suite! {
            @cases $backend $fixture, [$($lacks),*], [], $($alone)* $($together)*
        }
    };
    (@suite $backend:ident $fixture:path, [$($lacks:ident),*], [together],
        alone { $($alone:tt)* } together { $($together:tt)* }) => {
        $crate::contract::contract_suite! {
            @cases $backend $fixture, [$($lacks),*], [$($together)*], $($alone)*
        }
    };
    (@cases $backend:ident $fixture:path, [$($lacks:ident),*],
        [$($shared_module:ident::$shared:ident [$($shared_needs:ident),*];)*],
        $($module:ident::$case:ident [$($needs:ident),*];)*) => {
        mod $backend {
            #[tokio::test]
            async fn says_what_it_lacks() {
                use $crate::contract::Capability;
                let Some(fixture) = $fixture().await else { return };
                let lacks: &[Capability] = &[$(Capability::$lacks),*];
                assert_eq!(fixture.lacks(), lacks);
                fixture.cleanup().await;
            }
            $(
                #[tokio::test]
                async fn $case() {
                    use $crate::contract::{$module, run};
                    let needs = [$($crate::contract::Capability::$needs),*];
                    let name = stringify!($case);
                    let fixture = $fixture().await;
                    run(stringify!($backend), name, &needs, fixture, |f| {
                        Box::pin($module::$case(f))
                    })
                    .await;
                }
            )*
            $crate::contract::contract_suite! { @together $backend $fixture,
                $($shared_module::$shared [$($shared_needs),*];)*
            }
        }
    };
    (@together $backend:ident $fixture:path,) => {};
    (@together $backend:ident $fixture:path,
        $($module:ident::$case:ident [$($needs:ident),*];)+) => {
        #[tokio::test]
        async fn those_that_share_a_machine() {
            use $crate::contract::{Body, Capability};
            let cases: &[(&str, &[Capability], Body)] = &[$(
                (stringify!($case), &[$(Capability::$needs),*], |f| {
                    Box::pin($crate::contract::$module::$case(f))
                }),
            )+];
            let fixture = $fixture().await;
            $crate::contract::run_together(stringify!($backend), fixture, cases).await;
        }
    };
}
pub(crate) use contract_suite;

contract_suite!(on_memory, crate::contract::memory::fixture, lacks: [Userland]);
contract_suite!(on_docker, crate::contract::docker::fixture, lacks: []);
contract_suite!(
    on_smolmachines, crate::contract::smolmachines::fixture, lacks: [Pause], together
);

#[tokio::test]
async fn a_users_link_leads_to_nothing_of_roots_on_docker() {
    let made = docker::fixture().await;
    run("on_docker", "a_users_link", &[], made, |f| {
        Box::pin(files::a_users_link_leads_to_nothing_of_roots(f))
    })
    .await;
}
