//! Making a sandbox: a folder with a record, and nothing that runs.

#![expect(clippy::disallowed_methods, reason = "the state folder is written, the clock read")]

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::state::{self, Mode, Mount, Record, RootFs, Store, User};
use super::{base, etc, ids, image, remove_folder};
use crate::backend::{BackendError, Scope};
use crate::model::{ImageRef, MachineSpec, ResourceSpec, tool};

/// Makes the sandbox's folder under a temporary name and gives it its own once it is whole.
pub(super) fn create(
    scope: &Scope,
    spec: &MachineSpec,
    digests: &base::Digests,
) -> anyhow::Result<()> {
    let store = Store::of(scope);
    store.make()?;
    let id = state::random_id()?;
    let mode = ids::mode(&store, &spec.sandbox, &id).context("taking a range of ids")?;
    // Shared: what is shared between sandboxes does not go while one is made that needs it.
    let lock = store.lock(false)?;
    let scratch = store.scratch("making")?;
    let made = fill(scope, &store, spec, id.clone(), mode, digests, &scratch).and_then(|()| {
        let folder = store.sandbox(&spec.sandbox);
        fs::rename(&scratch, folder.path())
            .with_context(|| format!("giving it its name {}", folder.path().display()))?;
        // With its record, its name survives a power cut.
        Ok(fs::File::open(store.path())?.sync_all()?)
    });
    if made.is_err() {
        let _ = remove_folder(&scratch);
        let _ = ids::release(&store, &spec.sandbox, mode, &id);
    }
    drop(lock);
    // Where the host has changed, the base that it had may be nobody's now. One that cannot be
    // removed is seen as a leftover, and does not make this sandbox any less made.
    let _ = base::sweep(&store);
    made
}

fn fill(
    scope: &Scope,
    store: &Store,
    spec: &MachineSpec,
    id: String,
    mode: Mode,
    digests: &base::Digests,
    folder: &Path,
) -> anyhow::Result<()> {
    for name in ["", "stage", "upper", "work"] {
        fs::DirBuilder::new().mode(0o700).create(folder.join(name))?;
    }
    let owners = |path: &Path, id: u32| -> io::Result<()> {
        mode.host_id(id).map_or(Ok(()), |id| lchown(path, Some(id), Some(id)))
    };
    let Origin { user, env, workdir } = origin(store, spec)?;
    let rootfs = match spec.image.digest() {
        Some(digest) => RootFs::Image { digest },
        None => RootFs::Host { base: base::shared(store, digests)? },
    };
    let own_etc = folder.join("upper/root/etc");
    for path in [&folder.join("upper/root"), &own_etc] {
        fs::create_dir(path)?;
        // What the sandbox sees of a folder is this one's mode, whatever the operator's umask is.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        owners(path, 0)?;
    }
    for (name, text) in etc::own(spec.sandbox.as_str(), &user, spec.image == ImageRef::Host) {
        let path = own_etc.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        owners(&path, 0)?;
    }
    let resource = ResourceSpec::Machine(spec.clone());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record {
        version: state::RECORD_VERSION,
        id,
        owner: scope.owner.to_string(),
        state: scope.state.clone(),
        sandbox: spec.sandbox.clone(),
        name: scope.object_name(&spec.sandbox),
        hash: resource.hash(),
        fields: resource.fields(),
        overlay: spec.overlay.clone(),
        created: now.as_secs(),
        created_millis: Some(now.as_millis().try_into().unwrap_or(u64::MAX)),
        mode,
        rootfs,
        image: spec.image.digest(),
        host_paths: spec.host_paths.iter().map(|path| resolved(path)).collect(),
        tools: spec.tools.clone(),
        mount: spec
            .mount
            .as_ref()
            .map(|w| Mount { path: resolved(&w.path), target: w.target.clone() }),
        env,
        workdir: spec.workdir.clone().or(workdir),
        user,
        command: spec.command.clone(),
        restart: spec.restart,
        waits_for_env: spec.waits_for_env,
        connected: spec.connected,
        resources: spec.resources,
    };
    Ok(state::write_json(&folder.join(state::MACHINE), &record)?)
}

/// What a machine is made from says of who works in it.
pub(super) struct Origin {
    pub(super) user: User,
    env: Vec<(String, String)>,
    workdir: Option<String>,
}

pub(super) fn origin(store: &Store, spec: &MachineSpec) -> anyhow::Result<Origin> {
    let (mut user, env, workdir) = match &spec.image {
        ImageRef::Host => (host_user(spec.user.as_deref())?, Vec::new(), None),
        reference => {
            let digest = reference.digest().context("its image has no digest")?;
            let image = image::read(store, digest)?;
            (image.user(spec.user.as_deref())?, image.env(), image.workdir())
        }
    };
    let env: Vec<(String, String)> = env.into_iter().chain(spec.env.clone()).collect();
    if let Some(home) = home(&env) {
        user.home = home;
    }
    Ok(Origin { user, env, workdir })
}

/// The home folder that the environment names, as on every backend: the bottle's comes last, and counts
/// where it is a path.
fn home(env: &[(String, String)]) -> Option<String> {
    // It stands in the sandbox's own `passwd`, too.
    let plain = |path: &str| {
        path.split('/').all(|part| !matches!(part, "." | ".."))
            && !path.contains(|c: char| c == ':' || c.is_control())
    };
    let named = env.iter().rev().filter(|(name, _)| name == "HOME").map(|(_, value)| value);
    let home = named.into_iter().find(|home| home.starts_with('/') && plain(home))?;
    Some(format!("/{}", home.trim_matches('/')))
}

/// The sandbox's user on the host's programs: `agent` (1000), unless the bottle says otherwise. The
/// host's own users mean nothing inside.
fn host_user(wanted: Option<&str>) -> anyhow::Result<User> {
    let (name, group) = match wanted.unwrap_or("agent").split_once(':') {
        Some((name, group)) => (name, Some(image::id(group)?)),
        None => (wanted.unwrap_or("agent"), None),
    };
    let (uid, name, home) = match name {
        "root" | "0" => (0, "root", "/root".to_owned()),
        _ if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => {
            (image::id(name)?, "agent", "/home/agent".to_owned())
        }
        _ if is_user_name(name) => (1000, name, format!("/home/{name}")),
        _ => anyhow::bail!("`{name}` is not a user name: expected [a-z_][a-z0-9_-]*"),
    };
    Ok(User { uid, gid: group.unwrap_or(uid), name: name.to_owned(), home })
}

fn is_user_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
    text.len() <= 32
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b.is_ascii_digit() || b == b'-')
}

/// What can be said about a spec without making anything of it.
pub(super) fn check(scope: &Scope, spec: &MachineSpec) -> Result<(), BackendError> {
    match &spec.image {
        ImageRef::Host | ImageRef::Tar { .. } | ImageRef::Folder { .. } => {}
        other => {
            return Err(BackendError::Image {
                image: other.to_string(),
                reason: "the native backend asks no registry: name `host`, an image tar (`docker \
                         save`) or a root folder, or use the docker backend"
                    .to_owned(),
            });
        }
    }
    if spec.image == ImageRef::Host {
        host_user(spec.user.as_deref())
            .map_err(|error| BackendError::Unsupported(format!("user: {error}")))?;
    }
    for path in &spec.host_paths {
        check_host_path("host_paths", path, &scope.data)?;
    }
    for path in tool::folders(&spec.tools) {
        check_host_path("tools", path, &scope.data)?;
    }
    if let Some(mount) = &spec.mount
        && !mount.path.is_dir()
    {
        return Err(BackendError::Unsupported(format!(
            "workspace.path {} is not a folder",
            mount.path.display()
        )));
    }
    Ok(())
}

/// The folder that was judged, and no other that a symlink may lead to by the next start.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Folders that speak for the host itself, which nothing may be shown of.
const NEVER: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/run"];

fn check_host_path(field: &str, path: &Path, data: &Path) -> Result<(), BackendError> {
    let refuse =
        |why: String| Err(BackendError::Unsupported(format!("{field}: {} {why}", path.display())));
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) => return refuse(format!("cannot be shown: {error}")),
    };
    if !real.is_dir() {
        return refuse("is not a folder".to_owned());
    }
    if real == Path::new("/") || NEVER.iter().any(|never| real.starts_with(never)) {
        return refuse("speaks for the host itself and is never shown".to_owned());
    }
    let data: PathBuf = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    if data.starts_with(&real) || real.starts_with(&data) {
        return refuse(format!("holds, or lies in, the state folder {}", data.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_what_the_bottle_says() {
        let user = |wanted| host_user(wanted).map(|user| (user.uid, user.name, user.home));
        assert_eq!(host_user(Some("4321:55")).unwrap().gid, 55);
        let expected = |uid, name: &str, home: &str| (uid, name.to_owned(), home.to_owned());
        assert_eq!(user(None).unwrap(), expected(1000, "agent", "/home/agent"));
        assert_eq!(user(Some("root")).unwrap(), expected(0, "root", "/root"));
        assert_eq!(user(Some("1234")).unwrap(), expected(1234, "agent", "/home/agent"));
        assert_eq!(user(Some("node")).unwrap(), expected(1000, "node", "/home/node"));
        for wrong in ["a:b", "a\nb", "70000", "../x", ""] {
            assert!(user(Some(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_environments_home_wins_where_it_is_a_path() {
        let of = |values: &[&str]| {
            let env = values.iter().map(|value| ("HOME".to_owned(), (*value).to_owned()));
            home(&env.chain([("A".to_owned(), "/a".to_owned())]).collect::<Vec<_>>())
        };
        assert_eq!(of(&["/image", "/work/"]).as_deref(), Some("/work"));
        assert_eq!(of(&["/image", "relative"]).as_deref(), Some("/image"));
        assert_eq!(of(&["/"]).as_deref(), Some("/"));
        for none in [&[][..], &["/a/../etc"], &["/a:b"], &["/a\nb"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_speaks_for_the_host_is_never_shown() {
        let data = tempfile::tempdir().unwrap();
        let inner = data.path().join("inner");
        fs::create_dir(&inner).unwrap();
        for path in ["/", "/proc/self", "/dev", "/etc/passwd", "/nowhere/at/all"] {
            assert!(check_host_path("host_paths", Path::new(path), data.path()).is_err(), "{path}");
        }
        assert!(check_host_path("host_paths", data.path(), &inner).is_err());
        assert!(check_host_path("host_paths", &inner, data.path()).is_err());
        assert!(check_host_path("host_paths", Path::new("/usr/share"), data.path()).is_ok());
    }
}
