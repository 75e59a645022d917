//! Files in and out, over the engine's archive calls.
//!
//! The engine unpacks in the machine's own root: a symlink that the guest planted leads to wherever
//! it leads inside the guest, and never out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Component;
use std::time::Duration;

use bollard::body_full;
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::engine::Engine;
use super::{error, exec, observe};
use crate::backend::{
    BackendError, ExecSpec, ExecUser, GuestDir, Identity, Scope, TarSink, TarStream, Upload,
    guest_path,
};
use crate::model::{Instance, InstanceState};

/// Removes `$1…$wipes`, then says by number what is still there, and which of the folders that
/// follow are missing. As the sandbox's user: without capabilities root may do less in its home.
///
/// A folder may have lost its write permission from inside, so that is given back first, but never
/// through a symlink: what one points at is not ours to change.
const WIPE_SH: &str = r#"wipes=$1 own=$2; shift 2; n=0
for path do
  n=$((n + 1))
  if [ "$n" -le "$wipes" ]; then
    if [ -L "$path" ] || [ -e "$path" ]; then
      parent=${path%/*}
      [ -L "$parent" ] || chmod u+rwx "$parent" 2>/dev/null
      if [ -d "$path" ] && [ ! -L "$path" ]; then chmod -R u+rwX "$path" 2>/dev/null; fi
      rm -rf "$path" 2>/dev/null
      if [ -L "$path" ] || [ -e "$path" ]; then echo "left $n"; fi
    fi
  elif [ ! -d "$path" ]; then echo "missing $n"
  elif [ "$path" = "$own" ] && [ ! -w "$path" ]; then echo "missing $n"
  fi
done"#;

/// Removes as root what the sandbox's user, `$1`, could not. It goes into the folder first and looks
/// where that is: a link of the user's leads to folders of the user's only. Nothing of the user's is
/// run: the image's own programs are root's.
const WIPE_AS_ROOT_SH: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin user=$1; shift; n=0
for path do
  n=$((n + 1)) dir=${path%/*} name=${path##*/}
  dir=${dir:-/}
  (
    cd -P "$dir" 2>/dev/null || exit 0
    if [ "$(pwd -P)" != "$dir" ]; then
      owner=$(ls -ldn . | { read -r mode links uid rest; echo "$uid"; })
      [ "$owner" = "$user" ] || exit 1
    fi
    if [ -d "./$name" ] && [ ! -L "./$name" ]; then chmod -R u+rwX "./$name" 2>/dev/null; fi
    rm -rf "./$name" 2>/dev/null
    [ ! -L "./$name" ] && [ ! -e "./$name" ]
  ) || echo "left $n"
done"#;

/// How long an engine may take to unpack a stream: for ever.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);

/// How Go marks a link in a file's mode.
const GO_MODE_SYMLINK: u32 = 1 << 27;

/// How Go marks a folder in a file's mode.
const GO_MODE_DIR: u32 = 1 << 31;

/// Puts a file where the archive cannot reach, because it lies on a tmpfs: whole or not at all. Under
/// its temporary name no FIFO can have been put before.
const PUT_SH: &str = r#"umask 077; new=$1.new.$$; rm -rf "$new"; cat >"$new" && chmod "$2" "$new" && mv -f "$new" "$1""#;

/// Unpacks `upload`. `known` says of folders whether they are in the machine's image.
pub(super) async fn copy_in(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
    known: Option<&BTreeMap<String, bool>>,
    user: Option<&Identity>,
    upload: Upload,
) -> Result<(), BackendError> {
    let asks = !upload.wipe.is_empty() || !upload.dirs.is_empty();
    if !upload.fresh && !asks {
        // Only a command tells otherwise: the engine unpacks into what does not run just as well.
        must_run(engine, scope, instance).await?;
    }
    let planned =
        if upload.fresh { known.and_then(|known| absent(&upload.dirs, known)) } else { None };
    let missing = match planned {
        Some(missing) => missing,
        None => wipe(engine, instance, user, &upload).await?,
    };
    if !upload.fresh {
        refuse_links(engine, instance, user, &upload.dirs).await?;
    }
    let (on_disk, on_tmpfs) =
        split(&upload.tar, &missing).map_err(|e| BackendError::failed(copying(instance), e))?;
    if let Some(archive) = on_disk {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let client = engine.patient();
        let sent =
            client.upload_to_container(&instance.id.0, Some(options), body_full(archive)).await;
        sent.map_err(|e| gone(engine, instance, e))?;
    }
    for file in on_tmpfs {
        put(engine, instance, file).await?;
    }
    Ok(())
}

/// Unpacks a tar as it comes. The engine reads it as a stream, too.
pub(super) async fn stream_in(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
    tar: TarStream,
) -> Result<(), BackendError> {
    must_run(engine, scope, instance).await?;
    let parts = futures_util::stream::unfold(tar, |mut tar| async {
        let part = tar.recv().await?;
        Some((part, tar))
    });
    let options = UploadToContainerOptionsBuilder::new().path("/").build();
    let body = bollard::body_try_stream(parts);
    // It answers when all of it is unpacked; whoever feeds it looks after it.
    let client = engine.client.clone().with_timeout(ENDLESS);
    let sent = client.upload_to_container(&instance.id.0, Some(options), body).await;
    sent.map_err(|e| gone(engine, instance, e))
}

/// Every name stays inside, read as text: what a symlink makes of it is the guest's own affair.
pub(super) fn check(upload: &Upload) -> anyhow::Result<()> {
    let dirs = upload.dirs.iter().map(|dir| dir.path.as_str());
    for path in upload.wipe.iter().map(String::as_str).chain(dirs) {
        let names = path.strip_prefix('/').unwrap_or_default();
        let plain = names.split('/').all(|name| !matches!(name, "" | "." | ".."));
        anyhow::ensure!(plain, "`{path}` is no absolute path without `..` to something");
    }
    for entry in tar::Archive::new(upload.tar.as_ref()).entries()? {
        let path = entry?.path()?.into_owned();
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        anyhow::ensure!(
            path.components().all(inside),
            "`{}` in the archive leads out of it",
            path.display()
        );
    }
    Ok(())
}

async fn must_run(engine: &Engine, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
    let now = observe::by_id(engine, scope, &instance.id).await?;
    let state = match now.map(|(instance, _)| instance.state) {
        Some(InstanceState::Running) => return Ok(()),
        Some(InstanceState::Paused) => "paused",
        Some(_) => "stopped",
        None => "gone",
    };
    Err(BackendError::NotRunning { name: instance.name.clone(), state: state.to_owned() })
}

pub(super) fn copying(instance: &Instance) -> String {
    format!("copying into {}", instance.name)
}

fn gone(engine: &Engine, instance: &Instance, e: bollard::errors::Error) -> BackendError {
    if error::answer(&e)
        .is_some_and(|(code, text)| code == 404 && text.contains("No such container"))
    {
        BackendError::NotRunning { name: instance.name.clone(), state: "gone".to_owned() }
    } else {
        engine.failed(copying(instance), e)
    }
}

/// The folders that are not there, where the image alone tells; `None` where it does not.
fn absent<'a>(dirs: &'a [GuestDir], known: &BTreeMap<String, bool>) -> Option<Vec<&'a GuestDir>> {
    let mut missing: Vec<&GuestDir> = Vec::new();
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for dir in dirs {
        let parent = dir.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let there = match known.get(&dir.path) {
            Some(there) => *there,
            None if paths.contains(parent) || known.get(parent) == Some(&false) => false,
            None => return None,
        };
        if !there {
            paths.insert(&dir.path);
            missing.push(dir);
        }
    }
    Some(missing)
}

/// The engine unpacks as root and follows links. One that the user has put below its home may lead
/// within that, or to the workspace, and nowhere else.
async fn refuse_links(
    engine: &Engine,
    instance: &Instance,
    user: Option<&Identity>,
    dirs: &[GuestDir],
) -> Result<(), BackendError> {
    let Some(user) = user.filter(|user| user.uid != 0) else { return Ok(()) };
    let home = format!("{}/", user.home.trim_end_matches('/'));
    let mut looked: BTreeSet<&str> = BTreeSet::new();
    for dir in dirs.iter().filter(|dir| dir.path.starts_with(&home)) {
        let ends = dir.path.match_indices('/').map(|(end, _)| end).chain([dir.path.len()]);
        for path in ends.filter(|end| *end >= home.len()).map(|end| &dir.path[..end]) {
            if !looked.insert(path) {
                continue;
            }
            let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
            let found = engine.client.get_container_archive_info(&instance.id.0, Some(options));
            let found = match found.await {
                Ok(found) => found,
                Err(e) if error::is_status(&e, 404) => break,
                Err(e) => return Err(gone(engine, instance, e)),
            };
            if found.file_mode & GO_MODE_SYMLINK == 0 {
                continue;
            }
            let target = std::path::Path::new(&found.link_target);
            let own = [user.home.as_str(), workdir(instance)];
            if !own.iter().any(|own| !own.is_empty() && target.starts_with(own)) {
                return Err(BackendError::failed(
                    copying(instance),
                    anyhow::anyhow!(
                        "{path} leads through a link of user {} to {}: remove that link inside",
                        user.uid,
                        target.display()
                    ),
                ));
            }
        }
    }
    Ok(())
}

async fn wipe<'a>(
    engine: &Engine,
    instance: &Instance,
    user: Option<&Identity>,
    upload: &'a Upload,
) -> Result<Vec<&'a GuestDir>, BackendError> {
    if upload.wipe.is_empty() && upload.dirs.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&str> = upload.wipe.iter().map(String::as_str).collect();
    let (left, missing) = wipe_as(engine, instance, ExecUser::Sandbox, &all, &upload.dirs).await?;
    if left.is_empty() {
        return really_missing(engine, instance, missing).await;
    }
    // What root put there, root removes.
    let left = wipe_as_root(engine, instance, user, &left).await?;
    if !left.is_empty() {
        return Err(BackendError::failed(
            copying(instance),
            anyhow::anyhow!("cannot remove {}", left.join(", ")),
        ));
    }
    // A folder may have stood in what is gone by now.
    let missing = wipe_as(engine, instance, ExecUser::Sandbox, &[], &upload.dirs).await?.1;
    really_missing(engine, instance, missing).await
}

/// Of the folders that the sandbox's user does not see, those that are not there. The working
/// directory is always among them: the engine made it, as root, where the image has none.
async fn really_missing<'a>(
    engine: &Engine,
    instance: &Instance,
    unseen: Vec<&'a GuestDir>,
) -> Result<Vec<&'a GuestDir>, BackendError> {
    let mut missing = Vec::new();
    for dir in unseen {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(&dir.path).build();
        let found = engine.client.get_container_archive_info(&instance.id.0, Some(options)).await;
        match found {
            Ok(found) if found.file_mode & GO_MODE_DIR != 0 && dir.path != workdir(instance) => {}
            Ok(_) => missing.push(dir),
            Err(e) if error::is_status(&e, 404) => missing.push(dir),
            Err(e) => return Err(gone(engine, instance, e)),
        }
    }
    Ok(missing)
}

/// The machine's working directory, where the bottle names one. One that is mounted is a folder of the
/// host, whose owner is nobody's to change.
pub(super) fn workdir(instance: &Instance) -> &str {
    if instance.fields.0.contains_key("workspace.mount") {
        return "";
    }
    instance.fields.0.get("workspace.target").map_or("", String::as_str)
}

async fn wipe_as<'a, 'b>(
    engine: &Engine,
    instance: &Instance,
    user: ExecUser,
    wipe: &[&'a str],
    dirs: &'b [GuestDir],
) -> Result<(Vec<&'a str>, Vec<&'b GuestDir>), BackendError> {
    let wipes = wipe.len().to_string();
    let head = ["/bin/sh", "-c", WIPE_SH, "bottle", &wipes, workdir(instance)];
    let argv = head.into_iter().chain(wipe.iter().copied()).chain(dirs.iter().map(|d| &*d.path));
    let spec = ExecSpec { user, workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let output = exec::exec(engine, instance, &spec, Bytes::new()).await?;
    if output.code != 0 {
        return Err(refused(instance, &output));
    }
    let (mut left, mut missing) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((what, number)) = line.split_once(' ') else { continue };
        let Some(index) = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) else {
            continue;
        };
        match what {
            "left" => left.extend(wipe.get(index)),
            "missing" => {
                missing.extend(index.checked_sub(wipe.len()).and_then(|index| dirs.get(index)));
            }
            _ => {}
        }
    }
    Ok((left, missing))
}

async fn wipe_as_root<'a>(
    engine: &Engine,
    instance: &Instance,
    user: Option<&Identity>,
    wipe: &[&'a str],
) -> Result<Vec<&'a str>, BackendError> {
    let uid = user.map(|user| user.uid.to_string()).unwrap_or_default();
    let head = ["/bin/sh", "-c", WIPE_AS_ROOT_SH, "bottle", &uid];
    let argv = head.into_iter().chain(wipe.iter().copied());
    let spec =
        ExecSpec { user: ExecUser::Root, workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let output = exec::exec(engine, instance, &spec, Bytes::new()).await?;
    if output.code != 0 {
        return Err(refused(instance, &output));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.lines().filter_map(|line| line.strip_prefix("left ")?.parse::<usize>().ok());
    Ok(numbers.filter_map(|n| wipe.get(n.checked_sub(1)?).copied()).collect())
}

pub(super) fn refused(instance: &Instance, output: &crate::backend::ExecOutput) -> BackendError {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    BackendError::failed(
        copying(instance),
        anyhow::anyhow!("a command in it ended with {}: {text}", output.code),
    )
}

/// A file for the tmpfs.
struct TmpfsFile {
    path: String,
    mode: u32,
    bytes: Vec<u8>,
}

/// The archive to unpack on disk, the missing folders first, and the files that lie on the tmpfs:
/// the engine would unpack those beneath it.
fn split(tar: &Bytes, missing: &[&GuestDir]) -> anyhow::Result<(Option<Bytes>, Vec<TmpfsFile>)> {
    let mut folders = tar::Builder::new(Vec::new());
    for dir in missing {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(dir.mode);
        header.set_uid(dir.uid.into());
        header.set_gid(dir.gid.into());
        header.set_size(0);
        let name = format!("{}/", dir.path.trim_matches('/'));
        folders.append_data(&mut header, name, std::io::empty())?;
    }
    let (mut kept, mut tmpfs) = (0usize, Vec::new());
    let run = guest_path::RUN.trim_start_matches('/');
    for entry in tar::Archive::new(tar.as_ref()).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path);
        if !path.starts_with(run) {
            kept += 1;
            continue;
        }
        anyhow::ensure!(
            entry.header().entry_type().is_file(),
            "{} is no plain file, and only such can lie on {}",
            path.display(),
            guest_path::RUN
        );
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let path = format!("/{}", path.display());
        tmpfs.push(TmpfsFile { path, mode: entry.header().mode()?, bytes });
    }
    if kept == 0 && missing.is_empty() {
        return Ok((None, tmpfs));
    }
    let on_disk = if tmpfs.is_empty() {
        let mut bytes = folders.get_ref().clone();
        bytes.extend_from_slice(tar);
        if tar.is_empty() { folders.into_inner()? } else { bytes }
    } else {
        for entry in tar::Archive::new(tar.as_ref()).entries()? {
            let entry = entry?;
            let path = entry.path()?.into_owned();
            if path.strip_prefix("./").unwrap_or(&path).starts_with(run) {
                continue;
            }
            let mut header = entry.header().clone();
            match entry.link_name()? {
                Some(target) => folders.append_link(&mut header, &path, &target)?,
                None => folders.append_data(&mut header, &path, entry)?,
            }
        }
        folders.into_inner()?
    };
    Ok((Some(Bytes::from(on_disk)), tmpfs))
}

async fn put(engine: &Engine, instance: &Instance, file: TmpfsFile) -> Result<(), BackendError> {
    let mode = format!("{:o}", file.mode & 0o777);
    let argv = ["/bin/sh", "-c", PUT_SH, "bottle", &file.path, &mode];
    let spec = ExecSpec { workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let output = exec::exec(engine, instance, &spec, Bytes::from(file.bytes)).await?;
    if output.code == 0 { Ok(()) } else { Err(refused(instance, &output)) }
}

/// A tar of `path`, at most `limit` bytes.
pub(super) async fn copy_out(
    engine: &Engine,
    instance: &Instance,
    path: &str,
    limit: u64,
) -> Result<Bytes, BackendError> {
    let mut archive = Vec::new();
    let mut stream = std::pin::pin!(download(engine, instance, path));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if archive.len() as u64 + chunk.len() as u64 > limit {
            return Err(BackendError::failed(
                format!("copying {path} out of {}", instance.name),
                anyhow::anyhow!("it is larger than {limit} bytes"),
            ));
        }
        archive.extend_from_slice(&chunk);
    }
    Ok(archive.into())
}

/// Ends without an error where nobody takes the pieces any more.
pub(super) async fn stream_out(
    engine: &Engine,
    instance: &Instance,
    path: &str,
    tar: &TarSink,
) -> Result<(), BackendError> {
    let mut stream = std::pin::pin!(download(engine, instance, path));
    while let Some(chunk) = stream.next().await {
        if tar.send(chunk?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The engine's tar of a path in a container, resolved there.
fn download<'a>(
    engine: &'a Engine,
    instance: &'a Instance,
    path: &'a str,
) -> impl Stream<Item = Result<Bytes, BackendError>> + 'a {
    let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
    let stream = engine.client.download_from_container(&instance.id.0, Some(options));
    stream.map(move |chunk| {
        let what = || format!("copying {path} out of {}", instance.name);
        chunk.map_err(|e| {
            if !error::is_status(&e, 404) {
                engine.failed(what(), e)
            } else if error::words(&e).contains("No such container") {
                BackendError::NotRunning { name: instance.name.clone(), state: "gone".into() }
            } else {
                BackendError::failed(what(), anyhow::anyhow!("there is no {path} in it"))
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str) -> GuestDir {
        GuestDir { path: path.into(), uid: 1000, gid: 1000, mode: 0o755 }
    }

    #[test]
    fn what_the_image_tells_needs_no_question() {
        let known: BTreeMap<String, bool> =
            [("/home/n", true), ("/home/n/.claude", false), ("/w", true)]
                .map(|(path, there)| (path.to_owned(), there))
                .into();
        let dirs = ["/home/n", "/home/n/.claude", "/home/n/.claude/deep", "/w"].map(dir);
        let missing = absent(&dirs, &known).unwrap();
        let paths: Vec<&str> = missing.iter().map(|dir| dir.path.as_str()).collect();
        assert_eq!(paths, ["/home/n/.claude", "/home/n/.claude/deep"]);
        assert!(absent(&[dir("/w/unknown")], &known).is_none());
    }

    fn tar_of(entries: &[(&str, &str)]) -> Bytes {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().into()
    }

    fn names(tar: &Bytes) -> Vec<String> {
        let mut archive = tar::Archive::new(tar.as_ref());
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn folders_come_first_and_the_tmpfs_goes_its_own_way() {
        let missing = dir("/home/n/.claude");
        let (disk, tmpfs) = split(&tar_of(&[("etc/bottle/x", "x")]), &[&missing]).unwrap();
        assert_eq!(names(&disk.unwrap()), ["home/n/.claude/", "etc/bottle/x"]);
        assert!(tmpfs.is_empty());
        let both = tar_of(&[("run/bottle/env", "s"), ("etc/x", "x"), ("run/bottlenose", "n")]);
        let (disk, tmpfs) = split(&both, &[]).unwrap();
        assert_eq!(names(&disk.unwrap()), ["etc/x", "run/bottlenose"]);
        let [file] = tmpfs.as_slice() else { panic!() };
        assert_eq!((file.path.as_str(), file.mode), ("/run/bottle/env", 0o600));
        assert_eq!(file.bytes, b"s");
        assert!(split(&Bytes::new(), &[]).unwrap().0.is_none());
        assert_eq!(names(&split(&Bytes::new(), &[&missing]).unwrap().0.unwrap()).len(), 1);
    }
}
