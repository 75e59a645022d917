//! Files in and out: a tar through the stdin or stdout of a command in the machine. `machine cp`
//! takes single files only, and puts a file in the place of a folder.

use std::path::Component;

use bytes::Bytes;

use super::command::Ended;
use super::{Smolmachines, exec, parse};
use crate::backend::{BackendError, ExecSpec, ExecUser, Scope, TarSink, TarStream, Upload};
use crate::model::Instance;

/// As root: `LINKS WIPES WIPE… (DIR UID GID MODE)… `, and a tar on stdin. The guest's `tar` may
/// leave the owners of links as they come, so those are said again: `LINK UID:GID` each.
const PUT_SH: &str = r#"umask 022
links=$1 wipes=$2 tar=$3
shift 3
while [ "$wipes" -gt 0 ]; do
rm -rf "$1" || exit 1
shift
wipes=$((wipes - 1))
done
while [ "$#" -gt $((links * 2)) ]; do
if [ ! -d "$1" ]; then mkdir -p "$1" && chown "$2:$3" "$1" && chmod "$4" "$1" || exit 1; fi
shift 4
done
[ "$tar" = 0 ] || tar -x -p -f - -C / || exit 1
while [ "$#" -gt 0 ]; do
chown -h "$2" "$1" || exit 1
shift 2
done"#;

/// `PARENT NAME`. A name is itself, not what it points to.
const GET_SH: &str = r#"if [ ! -e "$1/$2" ] && [ ! -L "$1/$2" ]; then
echo "there is no $2 in $1" >&2
exit 1
fi
cd "$1" && exec tar -c -f - "$2""#;

pub(super) async fn copy_in(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    upload: Upload,
) -> Result<(), BackendError> {
    let what = format!("copying into {}", instance.name);
    let links = check(&upload).map_err(|error| BackendError::failed(&*what, error))?;
    let tar = if upload.tar.is_empty() { "0" } else { "1" };
    let counts = [links.len().to_string(), upload.wipe.len().to_string(), tar.to_owned()];
    let mut argv: Vec<String> = ["sh", "-c", PUT_SH, "sh"].map(str::to_owned).into();
    argv.extend(counts);
    argv.extend(upload.wipe);
    for dir in upload.dirs {
        let (uid, gid) = (dir.uid.to_string(), dir.gid.to_string());
        argv.extend([dir.path, uid, gid, format!("{:o}", dir.mode)]);
    }
    argv.extend(links.into_iter().flat_map(|(path, owner)| [path, owner]));
    let spec =
        ExecSpec { user: ExecUser::Root, workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let ended = exec::exec(backend, scope, instance, &spec, upload.tar).await?;
    if ended.code == 0 {
        return Ok(());
    }
    let words = parse::words(&ended.stderr);
    let why = anyhow::anyhow!("the guest's shell ended with {}: {words}", ended.code);
    Err(BackendError::failed(what, why))
}

/// Unpacks a tar as it comes, by the guest's own `tar`.
pub(super) async fn stream_in(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    tar: TarStream,
) -> Result<(), BackendError> {
    let argv = ["tar", "-x", "-p", "-f", "-", "-C", "/"];
    let spec =
        ExecSpec { user: ExecUser::Root, workdir: Some("/".to_owned()), ..ExecSpec::new(argv) };
    let ended = exec::fed(backend, scope, instance, &spec, tar).await?;
    if ended.code == 0 {
        return Ok(());
    }
    let words = parse::words(&ended.stderr);
    let why = anyhow::anyhow!("the guest's tar ended with {}: {words}", ended.code);
    Err(BackendError::failed(format!("copying into {}", instance.name), why))
}

/// Every name stays inside, read as text: what a symlink makes of it is the guest's own affair.
/// Returns the links and their owners.
fn check(upload: &Upload) -> anyhow::Result<Vec<(String, String)>> {
    let dirs = upload.dirs.iter().map(|dir| dir.path.as_str());
    for path in upload.wipe.iter().map(String::as_str).chain(dirs) {
        anyhow::ensure!(plain(path), "`{path}` is no absolute path without `..` to something");
    }
    let mut links = Vec::new();
    for entry in tar::Archive::new(upload.tar.as_ref()).entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        anyhow::ensure!(
            path.components().all(inside),
            "`{}` in the archive leads out of it",
            path.display()
        );
        if entry.header().entry_type().is_symlink() {
            let owner = format!("{}:{}", entry.header().uid()?, entry.header().gid()?);
            links.push((format!("/{}", path.display()), owner));
        }
    }
    Ok(links)
}

fn plain(path: &str) -> bool {
    let names = path.strip_prefix('/').unwrap_or_default();
    names.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

pub(super) async fn copy_out(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    path: &str,
    limit: u64,
) -> Result<Bytes, BackendError> {
    let failed =
        |why| BackendError::failed(format!("copying {path} out of {}", instance.name), why);
    let spec = packing(path).map_err(failed)?;
    let keep = usize::try_from(limit).unwrap_or(usize::MAX);
    let ended = exec::captured(backend, scope, instance, &spec, Bytes::new(), keep).await?;
    if ended.cut {
        return Err(failed(anyhow::anyhow!("it is larger than {limit} bytes")));
    }
    packed(&ended).and_then(|()| renamed(&ended.stdout)).map_err(failed)
}

/// The names of it begin with `./`.
pub(super) async fn stream_out(
    backend: &Smolmachines,
    scope: &Scope,
    instance: &Instance,
    path: &str,
    tar: TarSink,
) -> Result<(), BackendError> {
    let failed =
        |why| BackendError::failed(format!("copying {path} out of {}", instance.name), why);
    let spec = packing(path).map_err(failed)?;
    let ended = exec::drained(backend, scope, instance, &spec, tar).await?;
    packed(&ended).map_err(failed)
}

/// What makes a tar of a path, in the guest.
fn packing(path: &str) -> anyhow::Result<ExecSpec> {
    let path = path.trim_end_matches('/');
    anyhow::ensure!(path.is_empty() || plain(path), "it is no absolute path without `..`");
    let (parent, name) = path.rsplit_once('/').map_or(("/", "."), |(parent, name)| (parent, name));
    let parent = if parent.is_empty() { "/" } else { parent };
    // A name that begins with a dash is still a name.
    let name = format!("./{name}");
    let argv = ["sh", "-c", GET_SH, "sh", parent, &name];
    Ok(ExecSpec { user: ExecUser::Root, workdir: Some("/".to_owned()), ..ExecSpec::new(argv) })
}

fn packed(ended: &Ended) -> anyhow::Result<()> {
    let words = || parse::words(&ended.stderr);
    anyhow::ensure!(ended.code == 0, "the guest's shell ended with {}: {}", ended.code, words());
    Ok(())
}

/// The same tar with names that begin with the last part of the path, as everywhere.
fn renamed(bytes: &[u8]) -> anyhow::Result<Bytes> {
    let mut builder = tar::Builder::new(Vec::with_capacity(bytes.len()));
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let name = entry.path()?.into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let unnamed = |link: std::borrow::Cow<'_, std::path::Path>| {
            link.strip_prefix("./").unwrap_or(&link).to_owned()
        };
        match header.entry_type() {
            tar::EntryType::Symlink => {
                let to = entry.link_name()?.unwrap_or_default().into_owned();
                builder.append_link(&mut header, name, to)?;
            }
            tar::EntryType::Link => {
                let to = unnamed(entry.link_name()?.unwrap_or_default());
                builder.append_link(&mut header, name, to)?;
            }
            _ => builder.append_data(&mut header, name, &mut entry)?,
        }
    }
    Ok(builder.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(names: &[&str]) -> Bytes {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_uid(7);
            header.set_gid(8);
            header.set_size(0);
            builder.append_link(&mut header, name, "to").unwrap();
        }
        builder.into_inner().unwrap().into()
    }

    #[test]
    fn links_are_known_with_their_owners() {
        let upload = Upload { tar: tar(&["a/b", "c"]), ..Upload::default() };
        let links = check(&upload).unwrap();
        assert_eq!(links, [("/a/b".into(), "7:8".into()), ("/c".to_owned(), "7:8".to_owned())]);
    }

    #[test]
    fn no_path_leads_out() {
        for path in ["relative", "/", "", "/a/../b", "/a//b", "/a/."] {
            let upload = Upload { wipe: vec![path.to_owned()], ..Upload::default() };
            assert!(check(&upload).is_err(), "{path}");
        }
        assert!(plain("/a/b c/-d"));
    }

    #[test]
    fn what_comes_out_is_named_as_it_was_asked_for() {
        let out = renamed(&tar(&["./s/a", "./s/-b"])).unwrap();
        let mut archive = tar::Archive::new(out.as_ref());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["s/a", "s/-b"]);
    }
}
