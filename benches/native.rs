//! The native backend: how fast a sandbox comes up, how many a second, what one costs while it does
//! nothing, how fast they are listed and entered; beside `docker run -d` of the same command.
//!
//! `cargo bench --bench native`
//!
//! As root it measures both ways, the second by starting itself as uid 1000. Docker is measured
//! where an engine and `bottle-test-busybox:1` (`tests/support/images.sh`) are there. It removes
//! what it made, also when it fails or is interrupted.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints, and runs programs"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bottle::backend::native::Native;
use bottle::backend::{Backend, Depth, ExecSpec, Progress, Scope};
use bottle::model::spec::ResourceSpec;
use bottle::model::{
    BackendKind, ImageRef, Instance, MachineSpec, OwnerId, Resources, Restart, SandboxId,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use support::{BOTTLE, head, mib, ms, own_name, row, run, runs, until_stopped, wall};

const IMAGE: &str = "bottle-test-busybox:1";
/// What the sandbox and the container run.
const COMMAND: [&str; 2] = ["sleep", "3600"];
/// How often what takes milliseconds is done.
const TIMES: usize = 31;
/// How often what takes a second is done.
const ROUNDS: usize = 3;
const MANY: usize = 100;
const LISTED: usize = 1000;
/// The program and the folder of the part that runs as an ordinary user, and Docker's median there.
const PROGRAM: &str = "BOTTLE_BENCH_PROGRAM";
const FOLDER: &str = "BOTTLE_BENCH_FOLDER";
const DOCKER_MICROS: &str = "BOTTLE_BENCH_DOCKER_MICROS";
/// Which half that part is to measure.
const HALF: &str = "BOTTLE_BENCH_HALF";

/// How fast they come up is measured for both users before the thousand are made: on a file system
/// without a journal a thousand removed sandboxes slow down whoever makes files next, for minutes.
#[derive(Clone, Copy)]
enum Half {
    ComingUp,
    BeingThere,
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
    if let (Some(program), Some(folder)) = (std::env::var_os(PROGRAM), std::env::var_os(FOLDER)) {
        let micros = std::env::var(DOCKER_MICROS).ok().and_then(|text| text.parse().ok());
        let docker = micros.map(Duration::from_micros);
        let half = match std::env::var(HALF).as_deref() {
            Ok("there") => Half::BeingThere,
            _ => Half::ComingUp,
        };
        return Bench::new(program.into(), Path::new(&folder))?
            .measured("uid 1000", 30, half, docker)
            .await;
    }
    println!("{}", support::machine());
    let root = rustix::process::geteuid().is_root();
    let docker = until_stopped(docker_run()).await?;
    if docker.is_none() {
        println!("docker was not measured: no engine answers, or {IMAGE} is missing");
    }
    let (title, bound) = if root { ("root", 20) } else { ("ordinary user", 30) };
    for half in [Half::ComingUp, Half::BeingThere] {
        let folder = tempfile::tempdir()?;
        Bench::new(BOTTLE.into(), folder.path())?.measured(title, bound, half, docker).await?;
        if root {
            as_user(half, docker)?;
        }
    }
    println!("\nload at the end: {}", support::machine());
    Ok(())
}

/// The same once more as uid 1000, who may not look into the folder that this was built in.
fn as_user(half: Half, docker: Option<Duration>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    fs::copy(std::env::current_exe()?, path("bench"))?;
    fs::copy(BOTTLE, path("bottle"))?;
    fs::create_dir(path("state"))?;
    chown(path("state"), Some(1000), Some(1000))?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(path("bench"));
    command.env(PROGRAM, path("bottle")).env(FOLDER, path("state")).env("HOME", path("state"));
    let named = match half {
        Half::ComingUp => "up",
        Half::BeingThere => "there",
    };
    command.env(HALF, named);
    if let Some(docker) = docker {
        command.env(DOCKER_MICROS, docker.as_micros().to_string());
    }
    let status = command.current_dir("/").uid(1000).gid(1000).status()?;
    anyhow::ensure!(status.success(), "the part as uid 1000 failed: {status}");
    Ok(())
}

/// The median of `docker run -d`, where that can be had.
async fn docker_run() -> anyhow::Result<Option<Duration>> {
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(arguments);
        command
    };
    if run(&mut docker(&["image", "inspect", IMAGE])).is_err() {
        return Ok(None);
    }
    let mut times = Vec::new();
    for number in 0..11 {
        let name = format!("{}-{number}", own_name());
        let arguments = ["run", "-d", "--network", "none", "--name", name.as_str(), IMAGE];
        let ran = run(docker(&arguments).args(COMMAND));
        let removed = run(&mut docker(&["rm", "-f", &name]));
        times.push(ran?.wall);
        removed?;
        tokio::task::yield_now().await;
    }
    Ok(Some(support::median(times)))
}

struct Bench {
    backend: Native,
    scope: Scope,
    program: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn new(program: PathBuf, folder: &Path) -> anyhow::Result<Self> {
        let scope = Scope {
            owner: OwnerId::new(own_name())?,
            state: "bench".to_owned(),
            adopted: BTreeSet::new(),
            data: folder.join("data"),
            hidden: Vec::new(),
            places: Default::default(),
        };
        fs::create_dir_all(&scope.data)?;
        let backend = Native::with_helper(&program);
        Ok(Self { backend, scope, program, folder: folder.to_owned() })
    }

    /// Measures everything and takes away what that made.
    async fn measured(
        &self,
        title: &str,
        bound: u64,
        half: Half,
        docker: Option<Duration>,
    ) -> anyhow::Result<()> {
        let done = match half {
            Half::ComingUp => until_stopped(self.coming_up(title, bound, docker)).await,
            Half::BeingThere => until_stopped(self.being_there(title)).await,
        };
        let removed = self.clear().await.and(self.down());
        done.and(removed)
    }

    async fn coming_up(
        &self,
        title: &str,
        bound: u64,
        docker: Option<Duration>,
    ) -> anyhow::Result<()> {
        head(&format!("native, {title}"), "docker run");
        let created = self.create_to_ready().await?;
        let limit = Duration::from_millis(bound);
        let shown = format!("≤ {bound} ms");
        row("create to ready", &ms(created), "", "", &shown, Some(created <= limit));
        if let Some(docker) = docker {
            let ratio = docker.as_secs_f64() / created.as_secs_f64();
            let (theirs, times) = (ms(docker), format!("{ratio:.1} x"));
            row("", "", &theirs, &times, "≥ 10 x", Some(ratio >= 10.0));
        }
        let many = self.many().await?;
        let each = per_second(MANY, many);
        let met = Some(many <= Duration::from_secs(1));
        row("100 created and started, 2 at once", &each, "", "", "≥ 100 /s", met);
        Ok(())
    }

    async fn being_there(&self, title: &str) -> anyhow::Result<()> {
        head(&format!("native, {title}"), "docker run");
        self.through_the_program().await?;
        let idle = self.machines(0..LISTED, &[]).await?;
        let resident = support::median(
            idle.iter().map(|id| self.resident(id)).collect::<anyhow::Result<Vec<u64>>>()?,
        );
        row(
            "resident memory of an idle one",
            &mib(resident),
            "",
            "",
            "≤ 2 MiB",
            Some(resident <= 2 << 20),
        );
        let listed = self.listed().await?;
        let met = Some(listed <= Duration::from_millis(50));
        row("observe 1,000", &ms(listed), "", "", "≤ 50 ms", met);
        let executed = self.executed().await?;
        let met = Some(executed <= Duration::from_millis(10));
        row("exec of true", &ms(executed), "", "", "≤ 10 ms", met);
        self.clear().await
    }

    async fn made(&self, id: &SandboxId, command: &[&str]) -> anyhow::Result<Instance> {
        let spec = machine(id, command);
        self.backend.prepare(&self.scope, &spec, &Progress::silent()).await?;
        let made = self.backend.create(&self.scope, &ResourceSpec::Machine(spec)).await?;
        Ok(self.backend.start(&self.scope, &made).await?)
    }

    async fn machines(
        &self,
        numbers: std::ops::Range<usize>,
        command: &[&str],
    ) -> anyhow::Result<Vec<SandboxId>> {
        futures_util::stream::iter(numbers)
            .map(async |number| {
                let id = SandboxId::new(format!("a{number}"))?;
                self.made(&id, command).await?;
                Ok(id)
            })
            .buffer_unordered(2)
            .try_collect()
            .await
    }

    async fn create_to_ready(&self) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        for number in 0..TIMES {
            let id = SandboxId::new(format!("one{number}"))?;
            let begun = Instant::now();
            let made = self.made(&id, &COMMAND).await?;
            times.push(begun.elapsed());
            self.backend.teardown(&self.scope, &made).await?;
        }
        Ok(support::median(times))
    }

    async fn many(&self) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            self.machines(0..MANY, &COMMAND).await?;
            times.push(begun.elapsed());
            self.clear().await?;
        }
        Ok(support::median(times))
    }

    /// What a person sees: whole runs of the program, provisioning included.
    async fn through_the_program(&self) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            self.tree(MANY)?;
            times.push(run(&mut self.bottle(&["apply", "--yes"]))?);
            tokio::task::yield_now().await;
            self.down()?;
        }
        let peak = mib(support::memory(&times));
        let times = per_second(MANY, wall(&times));
        row("`bottle apply` of 100 new", &times, "", "", "", None);
        row("its peak memory", &peak, "", "", "", None);
        self.tree(1)?;
        run(&mut self.bottle(&["apply", "--yes"]))?;
        let exec = runs(TIMES, || self.bottle(&["exec", "a0", "--", "true"])).await?;
        row("`bottle exec a0 -- true`", &ms(wall(&exec)), "", "", "", None);
        self.down()
    }

    async fn listed(&self) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let begun = Instant::now();
            let seen = self.backend.observe(&self.scope, Depth::Listing).await?;
            times.push(begun.elapsed());
            anyhow::ensure!(seen.instances.len() == LISTED, "{} seen", seen.instances.len());
        }
        Ok(support::median(times))
    }

    async fn executed(&self) -> anyhow::Result<Duration> {
        let seen = self.backend.observe(&self.scope, Depth::Listing).await?;
        let machine = seen.instances.first().context("there are machines")?;
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let spec = ExecSpec::new(["true"]);
            let begun = Instant::now();
            let output = self.backend.exec(&self.scope, machine, &spec, Bytes::new()).await?;
            times.push(begun.elapsed());
            anyhow::ensure!(output.code == 0, "true ended with {}", output.code);
        }
        Ok(support::median(times))
    }

    /// Of a sandbox's init and all that is below it.
    fn resident(&self, id: &SandboxId) -> anyhow::Result<u64> {
        let receipt = self.scope.data.join("native").join(id.as_str()).join("run.json");
        let receipt: serde_json::Value = serde_json::from_slice(&fs::read(receipt)?)?;
        let mut bytes = 0;
        let mut pids = vec![receipt["pid"].to_string()];
        while let Some(pid) = pids.pop() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            bytes += kib.context("a process has a size")? << 10;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            pids.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
        }
        Ok(bytes)
    }

    fn tree(&self, count: usize) -> anyhow::Result<()> {
        let tree = self.folder.join("tree");
        let _ = fs::remove_dir_all(&tree);
        for folder in ["bottles", "agents"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::write(tree.join("bottle.yaml"), format!("name: {}\nbackend: native\n", own_name()))?;
        fs::write(tree.join("bottles/dev.md"), "---\nworkspace: { mode: none }\n---\n")?;
        for number in 0..count {
            let agent = "---\nbottle: dev\n---\nYou review changes.\n";
            fs::write(tree.join(format!("agents/a{number}.md")), agent)?;
        }
        Ok(())
    }

    fn bottle(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--tree").arg(self.folder.join("tree"));
        command.arg("--state-dir").arg(self.folder.join("state")).args(arguments);
        command
    }

    /// Removes what the backend made when it was called here.
    async fn clear(&self) -> anyhow::Result<()> {
        let seen = self.backend.observe(&self.scope, Depth::Listing).await?;
        futures_util::stream::iter(seen.instances)
            .map(async |instance| self.backend.teardown(&self.scope, &instance).await)
            .buffer_unordered(4)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// Removes what the program made.
    fn down(&self) -> anyhow::Result<()> {
        if self.folder.join("tree").exists() {
            run(&mut self.bottle(&["down", "--yes", "--allow-teardown", "all"]))?;
        }
        Ok(())
    }
}

fn machine(id: &SandboxId, command: &[&str]) -> MachineSpec {
    MachineSpec {
        sandbox: id.clone(),
        backend: BackendKind::Native,
        image: ImageRef::Host,
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::new(),
        connected: false,
        waits_for_env: false,
        resources: Resources::default(),
        workdir: None,
        mount: None,
        user: None,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        restart: Restart::default(),
        overlay: None,
    }
}

fn per_second(count: usize, time: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = count as f64 / time.as_secs_f64();
    format!("{rate:.0} /s")
}
