//! Files of a machine whose workspace is a folder of the host.
//!
//! What is to lie in that folder is the guest's user's own affair: it is put and read with that user's
//! rights. Where the container can be entered, `visit` sees to it. Where it cannot, an engine would
//! write as root and follow what the guest planted, so the guest's own shell does it, as that user.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;

use super::engine::Engine;
use super::{copy, exec};
use crate::backend::{BackendError, ExecOutput, ExecSpec, GuestDir, Identity, Scope, Upload};
use crate::model::Instance;

/// Where only root of the image's making can put anything, unless the guest is root.
const ROOTS: &str = "/etc";

/// How `READ` ends where there is nothing.
const ABSENT: i32 = 44;
/// How it ends where a folder cannot be read for want of a program.
const NO_TAR: i32 = 45;

/// Removes, makes and moves; the lines of an upload follow. What is there as a folder stays.
const FUNCTIONS: &str = r#"set -e; umask 077
wipe() {
  if [ -L "$1" ] || [ -e "$1" ]; then
    up=${1%/*}
    [ -L "$up" ] || chmod u+rwx "${up:-/}" 2>/dev/null || :
    if [ -d "$1" ] && [ ! -L "$1" ]; then chmod -R u+rwX "$1" 2>/dev/null || :; fi
    rm -rf "$1"
  fi
}
folder() {
  [ -d "$1" ] && return
  mkdir -p "${1%/*}"
  mkdir "$1"
  chmod "$2" "$1"
}
name() {
  if [ -L "$1" ] || [ -d "$1" ]; then rm -rf "$1"; fi
  chmod "$2" "$new"
  mv -f "$new" "$1"
}
begin() {
  [ -d "${1%/*}" ] || mkdir -p "${1%/*}"
  new=$1.new.$$
  rm -rf "$new"
}
"#;

/// Says what a path is, as `ls` shows it, and what is in it; a folder as a tar.
const READ: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ ! -L "$1" ] && [ ! -e "$1" ]; then
  if [ -d "${1%/*}" ]; then exit 44; fi
  ls -d "$1"; exit 1
fi
if [ -d "$1" ] && [ ! -L "$1" ]; then
  command -v tar >/dev/null || exit 45
  { tar -C "${1%/*}/" -cf - "${1##*/}" || echo "tar ended with $?" >&2; } | head -c "$2"
  exit
fi
ls -ldn "$1" || exit 1
if [ -f "$1" ] && [ ! -L "$1" ]; then head -c "$2" "$1" || exit 1; fi"#;

/// More than this of what a command says is not kept.
const KEPT: u64 = 1 << 20;

/// Whether the machine has a folder of the host.
pub(super) fn has_mount(instance: &Instance) -> bool {
    instance.fields.0.contains_key("workspace.mount")
}

/// Whether this path is to lie in the mounted workspace.
pub(super) fn holds(instance: &Instance, path: &str) -> bool {
    let target = instance.fields.0.get("workspace.target").filter(|_| has_mount(instance));
    target.is_some_and(|target| Path::new(path).starts_with(target))
}

/// What goes into the mounted workspace, and the rest. `None`: nothing does.
#[cfg(target_os = "linux")]
pub(super) fn parted(
    instance: &Instance,
    upload: &Upload,
) -> anyhow::Result<Option<(Upload, Upload)>> {
    if !has_mount(instance) {
        return Ok(None);
    }
    split(upload, |path| holds(instance, path))
}

/// What of an upload `takes` takes, and the rest. `None`: it takes nothing.
fn split(
    upload: &Upload,
    takes: impl Fn(&str) -> bool,
) -> anyhow::Result<Option<(Upload, Upload)>> {
    let absolute = |path: &Path| format!("/{}", path.display());
    let mut any = upload.wipe.iter().any(|path| takes(path))
        || upload.dirs.iter().any(|dir| takes(&dir.path));
    for entry in tar::Archive::new(upload.tar.as_ref()).entries()? {
        any = any || takes(&absolute(&entry?.path()?));
    }
    if !any {
        return Ok(None);
    }
    let mut tars = [(); 2].map(|()| (tar::Builder::new(Vec::new()), 0));
    for entry in tar::Archive::new(upload.tar.as_ref()).entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let (builder, entries) = &mut tars[usize::from(!takes(&absolute(&path)))];
        *entries += 1;
        let mut header = entry.header().clone();
        match entry.link_name()? {
            Some(target) => builder.append_link(&mut header, &path, &target)?,
            None => builder.append_data(&mut header, &path, entry)?,
        }
    }
    let part = |(builder, entries): (tar::Builder<Vec<u8>>, u32), mine: bool| {
        let wipe = upload.wipe.iter().filter(|path| takes(path) == mine).cloned().collect();
        let dirs = upload.dirs.iter().filter(|dir| takes(&dir.path) == mine).cloned().collect();
        let tar = if entries == 0 { Bytes::new() } else { builder.into_inner()?.into() };
        anyhow::Ok(Upload { wipe, dirs, tar, fresh: upload.fresh })
    };
    let [taken, rest] = tars;
    Ok(Some((part(taken, true)?, part(rest, false)?)))
}

/// Puts files into a container that cannot be entered from here.
pub(super) async fn put(
    engine: &Engine,
    scope: &Scope,
    instance: &Instance,
    known: Option<&std::collections::BTreeMap<String, bool>>,
    user: &Identity,
    upload: Upload,
) -> Result<(), BackendError> {
    let failed = |error| BackendError::failed(copy::copying(instance), error);
    // The engine puts what the guest's user could have led nowhere: of a machine in which nothing ran
    // yet, and beneath a folder of root's where the user is not root.
    let by_engine = |path: &str| {
        let roots = user.uid != 0 && Path::new(path).starts_with(ROOTS);
        (upload.fresh || roots) && !holds(instance, path)
    };
    let parts = match split(&upload, by_engine).map_err(failed)? {
        Some((engines, own)) => [Some(own), Some(engines)],
        None => [Some(upload), None],
    };
    let [own, engines] = parts;
    if let Some(own) = own {
        let script = script(&own).map_err(failed)?;
        let spec = ExecSpec { workdir: Some("/".to_owned()), ..ExecSpec::new(["/bin/sh"]) };
        let output = exec::exec(engine, instance, &spec, Bytes::from(script)).await?;
        if output.code != 0 {
            return Err(copy::refused(instance, &output));
        }
    }
    match engines {
        Some(engines) => copy::copy_in(engine, scope, instance, known, Some(user), engines).await,
        None => Ok(()),
    }
}

/// A tar of `path`, as it is seen by the guest's user.
pub(super) async fn get(
    engine: &Engine,
    instance: &Instance,
    path: &str,
    limit: u64,
) -> Result<Bytes, BackendError> {
    let failed =
        |error| BackendError::failed(format!("copying {path} out of {}", instance.name), error);
    let limit_text = limit.min(KEPT).to_string();
    let argv = ["/bin/sh", "-c", READ, "bottle", path, &limit_text];
    let spec = ExecSpec { workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let output = exec::exec(engine, instance, &spec, Bytes::new()).await?;
    match output.code {
        0 => packed(path, &output, limit).map_err(failed),
        ABSENT => Err(failed(anyhow::anyhow!("there is no {path} in it"))),
        NO_TAR => Err(failed(anyhow::anyhow!(
            "it is larger than what can be read of an image without `tar`"
        ))),
        _ => Err(copy::refused(instance, &output)),
    }
}

/// A tar of what `READ` said. It is the guest's word of the guest's own file.
fn packed(path: &str, output: &ExecOutput, limit: u64) -> anyhow::Result<Bytes> {
    let (said, limit) = (&output.stdout, limit.min(KEPT));
    anyhow::ensure!((said.len() as u64) < limit, "it is larger than {limit} bytes");
    // `ls` shows no size below that of a tar's magic, and a tar begins with a name.
    if said.get(257..262) == Some(b"ustar") {
        // What is not whole is not to be taken for all that there is.
        let complaint = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(complaint.trim().is_empty(), "{}", complaint.trim());
        return Ok(Bytes::copy_from_slice(said));
    }
    let end = memchr::memchr(b'\n', said).context("the guest's `ls` said nothing")?;
    let line = String::from_utf8_lossy(&said[..end]);
    let mut words = line.split_ascii_whitespace();
    let shown = words.next().context("the guest's `ls` said nothing")?;
    let (uid, gid, size) = (words.nth(1), words.next(), words.next());
    let number = |word: Option<&str>| -> anyhow::Result<u64> {
        word.and_then(|word| word.parse().ok()).context("the guest's `ls` names no owner or size")
    };
    let content = &said[end + 1..];
    let mut header = tar::Header::new_gnu();
    let plain = shown.starts_with('-');
    header.set_entry_type(match shown.as_bytes().first() {
        Some(b'-') => tar::EntryType::Regular,
        Some(b'd') => tar::EntryType::Directory,
        Some(b'l') => tar::EntryType::Symlink,
        _ => tar::EntryType::Fifo,
    });
    header.set_mode(mode(shown));
    header.set_uid(number(uid)?);
    header.set_gid(number(gid)?);
    let content = if plain { content } else { &[] };
    let whole = !plain || number(size)? == content.len() as u64;
    anyhow::ensure!(whole, "it changed while it was read, or is larger than {limit} bytes");
    header.set_size(content.len() as u64);
    let mut builder = tar::Builder::new(Vec::new());
    let name = Path::new(path).file_name().context("it has no name")?;
    builder.append_data(&mut header, name, content)?;
    Ok(builder.into_inner()?.into())
}

/// The permission bits of `-rwxr-x---`.
fn mode(shown: &str) -> u32 {
    let bits = shown.bytes().skip(1).take(9);
    bits.fold(0, |mode, letter| mode << 1 | u32::from(!matches!(letter, b'-' | b'S' | b'T')))
}

/// What a shell reads that has the rights of the guest's user.
fn script(upload: &Upload) -> anyhow::Result<String> {
    let mut lines = FUNCTIONS.to_owned();
    for path in &upload.wipe {
        writeln!(lines, "wipe {}", quoted(path))?;
    }
    for GuestDir { path, mode, .. } in &upload.dirs {
        writeln!(lines, "folder {} {:o}", quoted(path), mode & 0o777)?;
    }
    for entry in tar::Archive::new(upload.tar.as_ref()).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let path = path.to_str().context("a name in the tar is not UTF-8")?;
        let path = quoted(&format!("/{}", path.trim_start_matches("./").trim_end_matches('/')));
        let mode = entry.header().mode()? & 0o777;
        match entry.header().entry_type() {
            tar::EntryType::Directory => writeln!(lines, "folder {path} {mode:o}")?,
            tar::EntryType::Symlink => {
                let to = entry.link_name()?.context("a symlink without a target")?;
                let to = to.to_str().context("a link in the tar is not UTF-8")?;
                writeln!(lines, "wipe {path}; ln -s {} {path}", quoted(to))?;
            }
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                writeln!(lines, "begin {path}\n{{\n:")?;
                for part in content.chunks(CHUNK) {
                    writeln!(lines, "printf {}", printed(part))?;
                }
                writeln!(lines, "}} >\"$new\"\nname {path} {mode:o}")?;
            }
            other => anyhow::bail!("{path} is of a kind that is not put: {other:?}"),
        }
    }
    Ok(lines)
}

/// So many bytes in one word of a shell.
const CHUNK: usize = 4096;

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Any bytes as the format of `printf`.
fn printed(bytes: &[u8]) -> String {
    let mut word = String::from("'");
    for byte in bytes {
        match byte {
            b'%' => word.push_str("%%"),
            b' '..=b'~' if !matches!(byte, b'\\' | b'\'' | b'-') => word.push(char::from(*byte)),
            _ => {
                let _ = write!(word, "\\{byte:03o}");
            }
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_a_shell_unchanged() {
        let all: Vec<u8> = (0..=255).chain(*b"-x %s \\n 'quoted' ").collect();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_size(all.len() as u64);
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("it's/deep");
        let name = at.strip_prefix("/").unwrap().join("file");
        tar.append_data(&mut header, &name, all.as_slice()).unwrap();
        let upload = Upload { tar: tar.into_inner().unwrap().into(), ..Upload::default() };
        let script = script(&upload).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a shell reads what is for a shell")]
        let output = std::process::Command::new("/bin/sh").arg("-c").arg(&script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        #[expect(clippy::disallowed_methods, reason = "what it wrote")]
        let wrote = std::fs::read(at.join("file")).unwrap();
        assert_eq!(wrote, all);
    }

    #[test]
    fn what_is_for_the_workspace_is_told_by_its_path() {
        let dir = |path: &str| GuestDir { path: path.into(), uid: 1, gid: 1, mode: 0o755 };
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["w/in", "wide/out"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            tar.append_data(&mut header, name, &b"x"[..]).unwrap();
        }
        let upload = Upload {
            wipe: vec!["/w/a".into(), "/b".into()],
            dirs: vec![dir("/w"), dir("/wide")],
            tar: tar.into_inner().unwrap().into(),
            fresh: true,
        };
        let takes = |path: &str| Path::new(path).starts_with("/w");
        let (taken, rest) = split(&upload, takes).unwrap().unwrap();
        assert_eq!((taken.wipe, rest.wipe), (vec!["/w/a".to_owned()], vec!["/b".to_owned()]));
        assert_eq!((&*taken.dirs[0].path, &*rest.dirs[0].path), ("/w", "/wide"));
        for (part, name) in [(&taken.tar, "w/in"), (&rest.tar, "wide/out")] {
            let mut archive = tar::Archive::new(part.as_ref());
            let names: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().into_owned())
                .collect();
            assert_eq!(names, [Path::new(name)]);
        }
        assert!(split(&upload, |_| false).unwrap().is_none());
    }

    #[test]
    fn what_a_guests_ls_says_is_read() {
        let said = |text: &[u8]| ExecOutput { code: 0, stdout: text.to_vec(), stderr: Vec::new() };
        let file = said(b"-rw-r----- 1 1000 50 5 Jan  1 00:00 /home/n/file\nhello");
        let tar = packed("/home/n/file", &file, 100).unwrap();
        let mut archive = tar::Archive::new(tar.as_ref());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header().clone();
        assert_eq!((header.mode().unwrap(), header.uid().unwrap()), (0o640, 1000));
        assert_eq!(header.gid().unwrap(), 50);
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(packed("/f", &file, 20).is_err(), "it is longer");
        assert!(packed("/f", &said(b""), 5).is_err());
        let part = said(b"-rw-r----- 1 1000 50 6 Jan  1 00:00 /home/n/file\nhello");
        let error = packed("/f", &part, 100).unwrap_err().to_string();
        assert!(error.contains("larger than"), "{error}");
        assert_eq!(mode("-rwsr-Sr-T"), 0o744);
    }
}
