//! A backend whose small commands have seconds. What runs inside a machine, or stands in the way of
//! a file that is put in, is the guest's: it may sleep for ever. Only what moves much data has
//! longer, and only as long as the data takes.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

use crate::backend::{
    Attach, Backend, BackendError, Depth, ExecOutput, ExecSpec, Finding, Hint, Identity,
    LogOptions, Observation, Process, Progress, Scope, TarSink, TarStream, Upload,
};
use crate::model::spec::ResourceSpec;
use crate::model::{BackendKind, Instance, InstanceId, Leftover, MachineSpec};

/// The slowest that data may go in, in bytes a second.
const SLOWEST: u64 = 1 << 20;

/// A backend as provisioning sees it.
pub(super) struct Brisk<'a> {
    pub(super) inner: &'a dyn Backend,
    /// How long a small command may take.
    pub(super) small: Duration,
    /// How long what makes a tar may say nothing.
    pub(super) silence: Duration,
}

impl Brisk<'_> {
    async fn within<T>(
        &self,
        what: &str,
        deadline: Duration,
        work: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        match tokio::time::timeout(deadline, work).await {
            Ok(done) => done,
            Err(_) => {
                Err(BackendError::Deadline { what: what.to_owned(), seconds: deadline.as_secs() })
            }
        }
    }
}

/// How long a stream may stand still.
struct Pace {
    /// With a piece that nobody takes; at its end, with nobody saying that it arrived.
    stall: Duration,
    /// With no piece that comes.
    silence: Duration,
}

/// How far a stream came.
enum Passed {
    All,
    /// Nobody takes what comes.
    Stuck,
    /// Nothing comes.
    Silent,
}

impl Pace {
    async fn kept<F>(
        &self,
        mut tar: TarStream,
        copy: impl FnOnce(TarStream) -> F,
    ) -> Result<(), BackendError>
    where
        F: Future<Output = Result<(), BackendError>>,
    {
        let (send, relay) = tokio::sync::mpsc::channel(1);
        let passing = async move {
            loop {
                let piece = match tokio::time::timeout(self.silence, tar.recv()).await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return Passed::All,
                    Err(_) => return Passed::Silent,
                };
                match tokio::time::timeout(self.stall, send.send(piece)).await {
                    Ok(Ok(())) => {}
                    // It has its reason, and says so itself.
                    Ok(Err(_)) => return Passed::All,
                    Err(_) => return Passed::Stuck,
                }
            }
        };
        let copying = copy(relay);
        tokio::pin!(copying, passing);
        let passed = tokio::select! {
            done = &mut copying => return done,
            passed = &mut passing => passed,
        };
        let (why, waited) = match passed {
            Passed::All => match tokio::time::timeout(self.stall, copying).await {
                Ok(done) => return done,
                Err(_) => ("the sandbox did not say that all of it arrived", self.stall),
            },
            Passed::Stuck => ("the sandbox took no byte", self.stall),
            Passed::Silent => ("no byte could be read from its folder", self.silence),
        };
        let why = format!("{why} for {} s", waited.as_secs());
        Err(BackendError::failed("copying the workspace in", anyhow::Error::msg(why)))
    }
}

#[async_trait]
impl Backend for Brisk<'_> {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn lingers(&self) -> Duration {
        self.inner.lingers()
    }

    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError> {
        self.inner.observe(scope, depth).await
    }

    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        self.inner.prepare(scope, spec, progress).await
    }

    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        self.inner.create(scope, spec).await
    }

    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError> {
        self.inner.start(scope, instance).await
    }

    async fn quiesce(&self, scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        self.inner.quiesce(scope, machine).await
    }

    async fn hands_over(
        &self,
        scope: &Scope,
        machine: &Instance,
        next: &MachineSpec,
        paths: &[String],
    ) -> Result<bool, BackendError> {
        self.inner.hands_over(scope, machine, next, paths).await
    }

    async fn hand_over(
        &self,
        scope: &Scope,
        old: &InstanceId,
        machine: &Instance,
        paths: &[String],
    ) -> Result<(), BackendError> {
        self.inner.hand_over(scope, old, machine, paths).await
    }

    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.inner.stop(scope, instance).await
    }

    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        self.inner.teardown(scope, instance).await
    }

    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError> {
        self.inner.prune(scope, leftover).await
    }

    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError> {
        let work = self.inner.identity(scope, instance);
        self.within("finding out who the sandbox's user is", self.small, work).await
    }

    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError> {
        let program = spec.argv.first().map_or("", String::as_str);
        let what = format!("`{program}` inside the sandbox");
        self.within(&what, self.small, self.inner.exec(scope, instance, spec, stdin)).await
    }

    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError> {
        self.inner.attach(scope, instance, spec, attach).await
    }

    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError> {
        let deadline = self.small + Duration::from_secs(upload.tar.len() as u64 / SLOWEST);
        self.within("putting files in", deadline, self.inner.copy_in(scope, instance, upload)).await
    }

    /// As long as it goes on. What makes the tar is ours and may take its time: a folder of the
    /// operator's can hold a million names that are left out. A piece that nobody takes is a copy that
    /// hangs.
    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        tar: TarStream,
    ) -> Result<(), BackendError> {
        let pace = Pace { stall: self.small * 3, silence: self.silence };
        pace.kept(tar, |relay| self.inner.stream_in(scope, instance, relay)).await
    }

    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError> {
        let work = self.inner.copy_out(scope, instance, path, limit);
        self.within("reading a file of the sandbox", self.small, work).await
    }

    async fn processes(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<Process>>, BackendError> {
        let work = self.inner.processes(scope, instance);
        self.within("looking at what runs", self.small, work).await
    }

    async fn changed(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<Vec<String>>, BackendError> {
        let work = self.inner.changed(scope, instance);
        self.within("asking what was written", self.small, work).await
    }

    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError> {
        let (send, mut relay) = tokio::sync::mpsc::channel(4);
        // A guest whose own program packs may stop in the middle.
        let patience = self.small * 3;
        let passing = async move {
            loop {
                let Ok(piece) = tokio::time::timeout(patience, relay.recv()).await else {
                    return false;
                };
                // All of it passed, or nobody reads on.
                let Some(piece) = piece else { return true };
                if tar.send(piece).await.is_err() {
                    return true;
                }
            }
        };
        let copying = self.inner.stream_out(scope, instance, path, send);
        tokio::pin!(copying, passing);
        tokio::select! {
            passed = &mut passing => {
                if passed {
                    return copying.await;
                }
            }
            done = &mut copying => {
                done?;
                if passing.await {
                    return Ok(());
                }
            }
        }
        let (what, seconds) = (format!("reading {path} of the sandbox"), patience.as_secs());
        Err(BackendError::Deadline { what, seconds })
    }

    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError> {
        self.inner.logs(scope, instance, options, out).await
    }

    async fn reread(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        let work = self.inner.reread(scope, instance);
        self.within("telling the sandbox's supervisor", self.small, work).await
    }

    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
        self.inner.events(scope).await
    }

    async fn doctor(&self, boot: bool) -> Vec<Finding> {
        self.inner.doctor(boot).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    const PACE: Pace =
        Pace { stall: Duration::from_millis(400), silence: Duration::from_millis(400) };

    /// Pieces that come one by one, and how long each takes.
    fn source(pieces: u32, each: Duration) -> TarStream {
        let (send, tar) = channel(1);
        tokio::spawn(async move {
            for _ in 0..pieces {
                tokio::time::sleep(each).await;
                if send.send(Ok(Bytes::from_static(b"x"))).await.is_err() {
                    return;
                }
            }
        });
        tar
    }

    async fn taken(mut tar: TarStream, each: Duration) -> Result<(), BackendError> {
        while tar.recv().await.is_some() {
            tokio::time::sleep(each).await;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_copy_may_take_long_while_it_goes_on() {
        let (quick, slow) = (Duration::ZERO, Duration::from_millis(20));
        for (makes, takes) in [(slow, quick), (quick, slow)] {
            let done = PACE.kept(source(40, makes), |tar| taken(tar, takes)).await;
            done.expect("it is longer than what it may stand still, and never stands still");
        }
    }

    #[tokio::test]
    async fn a_copy_that_stands_still_ends_and_says_where() {
        let long = Duration::from_secs(60);
        let silent = PACE.kept(source(1, long), |tar| taken(tar, Duration::ZERO)).await;
        let stuck = PACE.kept(source(9, Duration::ZERO), |tar| taken(tar, long)).await;
        for (ended, words) in [(silent, "from its folder"), (stuck, "took no byte")] {
            let error = anyhow::Error::from(ended.unwrap_err());
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
