//! `bottle` on a Docker engine beside `docker compose`, in one run: 300 sandboxes are created, looked
//! at with nothing to do, and taken down. And `apply` of 100 new ones beside a bare client that makes
//! the same calls.
//!
//! `BOTTLE_BENCH_COMPOSE=/path/of/docker-compose cargo bench --bench docker`
//!
//! It needs an engine and `bottle-test-busybox:1` (`tests/support/images.sh`), uses names of its own
//! and removes what it made, also when it fails or is interrupted.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints, and runs programs"
)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use bollard::{Docker, body_full};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use support::{BOTTLE, head, memory, mib, ms, own_name, row, run, runs, until_stopped, wall};

const IMAGE: &str = "bottle-test-busybox:1";
/// How many sandboxes are created, have nothing to do, and are taken down; how often they are made,
/// and how often they are looked at.
const MANY: usize = 300;
const LIVES: usize = 3;
const LOOKS: usize = 15;
/// How many are new, and how often they are made.
const NEW: usize = 100;
const ROUNDS: usize = 3;
/// How many are removed at once where nobody measures.
const SETUP_JOBS: usize = 8;
/// What is promised beside compose: the time to create, with nothing to do, and to take down, and the
/// peak of memory with nothing to do.
const BOUNDS: [f64; 4] = [1.0, 0.35, 1.0, 0.4];

const OWNER: &str = "io.bottle.owner";
const PROJECT: &str = "com.docker.compose.project";

struct Bench {
    client: Docker,
    folder: tempfile::TempDir,
    name: String,
    compose: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> anyhow::Result<()> {
    let client = Docker::connect_with_defaults()?;
    let engine = client.version().await.context("asking the engine")?;
    client
        .inspect_image(IMAGE)
        .await
        .with_context(|| format!("{IMAGE} is missing: tests/support/images.sh makes it"))?;
    let compose = std::env::var_os("BOTTLE_BENCH_COMPOSE").map(PathBuf::from);
    let folder = tempfile::tempdir()?;
    let bench = Bench { client, folder, name: own_name(), compose };
    println!("{}", support::machine());
    println!("Docker {}", engine.version.unwrap_or_default());
    let done = until_stopped(async {
        bench.lives().await?;
        bench.new_ones().await
    })
    .await;
    let removed = bench.remove_all().await;
    println!("\nload at the end: {}", support::machine());
    done.and(removed)
}

impl Bench {
    /// A tree of `count` agents, and the name of its owner.
    fn tree(&self, kind: &str, count: usize) -> anyhow::Result<(PathBuf, String)> {
        let (tree, owner) = (self.folder.path().join(kind), format!("{}-{kind}", self.name));
        for folder in ["bottles", "agents"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::write(tree.join("bottle.yaml"), format!("name: {owner}\nbackend: docker\n"))?;
        let bottle = format!("---\nimage: {IMAGE}\nworkspace: {{ mode: none }}\n---\n");
        fs::write(tree.join("bottles/dev.md"), bottle)?;
        for number in 0..count {
            let agent = format!("---\nbottle: dev\n---\n{}", prompt());
            fs::write(tree.join(format!("agents/a{number}.md")), agent)?;
        }
        Ok((tree, owner))
    }

    fn bottle(&self, verb: &str, tree: &Path) -> Command {
        let mut command = Command::new(BOTTLE);
        command.arg("--state-dir").arg(self.folder.path().join("state"));
        command.args([verb, "--yes"]).arg(tree);
        command
    }

    fn apply(&self, tree: &Path, jobs: usize) -> Command {
        let mut command = self.bottle("apply", tree);
        command.arg("--jobs").arg(jobs.to_string());
        command
    }

    fn compose(&self, program: &Path, services: &Path, verb: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-f").arg(services).args(verb);
        command
    }

    /// Ours and theirs, one after the other in each round, each alone on the engine with its own.
    async fn lives(&self) -> anyhow::Result<()> {
        head(&format!("{MANY} sandboxes"), "compose");
        let (tree, _) = self.tree("idle", MANY)?;
        let services = self.folder.path().join("compose.yaml");
        fs::write(&services, composition(&format!("{}-compose", self.name)))?;
        let up = || self.bottle("apply", &tree);
        let down = || {
            let mut command = self.bottle("down", &tree);
            command.args(["--allow-teardown", "all"]);
            command
        };
        let (mut ours, mut theirs) = (Life::default(), Life::default());
        for round in 0..LIVES {
            let looks = if round + 1 == LIVES { LOOKS } else { 0 };
            ours.live(looks, up, down).await?;
            let Some(program) = &self.compose else { continue };
            let up = || self.compose(program, &services, &["up", "-d"]);
            let down = || self.compose(program, &services, &["down"]);
            theirs.live(looks, up, down).await?;
        }
        let names = ["create", "nothing to do: wall", "down", "nothing to do: peak memory"];
        let (ours, theirs) = (ours.numbers(), theirs.numbers());
        for (index, name) in names.into_iter().enumerate() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bytes of memory, far below 2^52"
            )]
            let show = |value: f64| match index {
                3 => mib(value as u64),
                _ => ms(Duration::from_secs_f64(value)),
            };
            if self.compose.is_none() {
                row(name, &show(ours[index]), "-", "-", "", None);
                continue;
            }
            let (ratio, bound) = (ours[index] / theirs[index], BOUNDS[index]);
            let met = Some(ratio <= bound);
            let (ours, theirs) = (show(ours[index]), show(theirs[index]));
            row(name, &ours, &theirs, &format!("{ratio:.2}"), &format!("≤ {bound}"), met);
        }
        if self.compose.is_none() {
            println!("compose was not measured: BOTTLE_BENCH_COMPOSE names no program");
        }
        Ok(())
    }

    async fn new_ones(&self) -> anyhow::Result<()> {
        let jobs = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 16));
        head(&format!("{NEW} new sandboxes, {jobs} at once"), "bare calls");
        let (tree, owner) = self.tree("new", NEW)?;
        let bare_owner = format!("{}-bare", self.name);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(run(&mut self.apply(&tree, jobs))?.wall);
            let body = self.body_of(&format!("bottle-{owner}-a0"), &bare_owner).await?;
            self.remove(OWNER, &owner).await?;
            theirs.push(self.bare(&bare_owner, &body, jobs).await?);
            self.remove(OWNER, &bare_owner).await?;
        }
        let (ours, theirs) = (support::median(ours), support::median(theirs));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let shown = format!("{ratio:.2}");
        row("wall", &ms(ours), &ms(theirs), &shown, "≤ 1.05", Some(ratio <= 1.05));
        Ok(())
    }

    /// What the engine was asked for when it made this container, for another owner.
    async fn body_of(&self, name: &str, owner: &str) -> anyhow::Result<ContainerCreateBody> {
        let found = self.client.inspect_container(name, None::<InspectContainerOptions>).await?;
        let mut body = serde_json::to_value(found.config.context("it has a configuration")?)?;
        body["HostConfig"] = serde_json::to_value(found.host_config)?;
        let mut body: ContainerCreateBody = serde_json::from_value(body)?;
        let labels = body.labels.get_or_insert_default();
        labels.insert(OWNER.to_owned(), owner.to_owned());
        Ok(body)
    }

    /// Create, start, copy, and nothing else.
    async fn bare(
        &self,
        owner: &str,
        body: &ContainerCreateBody,
        jobs: usize,
    ) -> anyhow::Result<Duration> {
        let archive = archive()?;
        let begun = Instant::now();
        futures_util::stream::iter(0..NEW)
            .map(async |number| {
                let name = format!("bottle-{owner}-a{number}");
                let options = CreateContainerOptionsBuilder::new().name(&name).build();
                let id = self.client.create_container(Some(options), body.clone()).await?.id;
                self.client.start_container(&id, None::<StartContainerOptions>).await?;
                let options = UploadToContainerOptionsBuilder::new().path("/").build();
                let body = body_full(archive.clone());
                self.client.upload_to_container(&id, Some(options), body).await
            })
            .buffer_unordered(jobs)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(begun.elapsed())
    }

    async fn remove(&self, label: &str, value: &str) -> anyhow::Result<()> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.client.list_containers(Some(options)).await?;
        futures_util::stream::iter(found.into_iter().filter_map(|container| container.id))
            .map(async |id| {
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                self.client.remove_container(&id, Some(options)).await
            })
            .buffer_unordered(SETUP_JOBS)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// All that a run may have left, however it ended.
    async fn remove_all(&self) -> anyhow::Result<()> {
        for kind in ["idle", "new", "bare"] {
            self.remove(OWNER, &format!("{}-{kind}", self.name)).await?;
        }
        self.remove(PROJECT, &format!("{}-compose", self.name)).await
    }
}

fn prompt() -> String {
    "You review changes. ".repeat(25)
}

/// What was measured of one of the two.
#[derive(Default)]
struct Life {
    created: Vec<Duration>,
    idle: Vec<support::Cost>,
    removed: Vec<Duration>,
}

impl Life {
    async fn live(
        &mut self,
        looks: usize,
        up: impl Fn() -> Command,
        down: impl Fn() -> Command,
    ) -> anyhow::Result<()> {
        self.created.push(run(&mut up())?.wall);
        if looks > 0 {
            self.idle.extend(runs(looks, &up).await?);
        }
        self.removed.push(run(&mut down())?.wall);
        Ok(())
    }

    /// Seconds, and bytes: in the order of [`BOUNDS`].
    fn numbers(self) -> [f64; 4] {
        if self.created.is_empty() {
            return [0.0; 4];
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let memory = memory(&self.idle) as f64;
        let seconds = |walls: Vec<Duration>| support::median(walls).as_secs_f64();
        let idle = wall(&self.idle).as_secs_f64();
        [seconds(self.created), idle, seconds(self.removed), memory]
    }
}

/// As many services, with the command and the network of a sandbox.
fn composition(project: &str) -> String {
    let service = |number: usize| {
        format!(
            "  s{number}: {{ image: \"{IMAGE}\", command: [sleep, \"3600\"], network_mode: none, \
             init: true, pull_policy: never }}\n"
        )
    };
    let services: String = (0..MANY).map(service).collect();
    format!("name: {project}\nservices:\n{services}")
}

/// What provisioning copies into a sandbox without skills: its folder and its prompt.
fn archive() -> anyhow::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_mode(0o755);
    folder.set_size(0);
    tar.append_data(&mut folder, "etc/bottle/", std::io::empty())?;
    let prompt = prompt();
    let mut file = tar::Header::new_gnu();
    file.set_mode(0o600);
    file.set_uid(1000);
    file.set_gid(1000);
    file.set_size(prompt.len() as u64);
    tar.append_data(&mut file, "etc/bottle/prompt.md", prompt.as_bytes())?;
    Ok(tar.into_inner()?.into())
}
