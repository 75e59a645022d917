//! Which places of a machine a snapshot is taken of: what is kept by name, as far as it is there.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::backend::{Backend, BackendError, ExecSpec, ExecUser, Identity, Scope};
use crate::model::kept::lies_in;
use crate::model::{BackendKind, Instance, InstanceState, Keep};

/// How long the guest may take to say what is there.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

/// Where nothing is an agent's: what is there is made anew with each machine.
const NOT_KEPT: [&str; 5] = ["/proc", "/sys", "/dev", "/run/bottle", "/etc/bottle"];

/// What a path is, and the folder that it lies in once all links on the way are followed. `closed`: a folder on
/// the way lets nobody in who asks, and root has no right over others' folders in most machines.
const LOOK_SH: &str = r#"p=$1
if [ -L "$p" ]; then echo link
elif [ -d "$p" ]; then echo folder
elif [ -f "$p" ]; then echo file
elif [ -e "$p" ]; then echo other
else
    up=${p%/*}
    until [ -d "$up/" ]; do up=${up%/*}; done
    if cd "$up/" 2>/dev/null; then echo nothing; else echo closed; fi
    exit 0
fi
cd -P "${p%/*}/" 2>/dev/null && pwd -P
exit 0"#;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    /// Anything but a folder is an error there.
    pub(super) folder: bool,
}

/// All that there is, none in another, and what in them belongs to the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub(super) all: Vec<Place>,
    pub(super) without: Vec<String>,
}

/// A path in its shortest form.
pub(super) fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

/// Those that may be there: the workspace, unless that is a folder of the host, the user's home, and paths.
pub(super) fn wanted(keep: &Keep, machine: &Instance, identity: &Identity) -> Vec<Place> {
    let place = |path: String, folder: bool| Place { path, folder };
    let target = machine.copied_workspace().map(plain).filter(|target| target != "/");
    let target = target.filter(|_| keep.workspace);
    // A user without a home has the whole machine for one.
    let home = Some(plain(&identity.home)).filter(|home| keep.home && home != "/");
    let named = keep.paths.iter().map(|path| plain(path)).filter(|path| path != "/");
    let mut places: Vec<Place> = target.into_iter().chain(home).map(|p| place(p, true)).collect();
    for path in named {
        if places.iter().all(|known| known.path != path) {
            places.push(place(path, false));
        }
    }
    let mounts = machine.mounts();
    places.retain(|place| mounts.iter().all(|mount| !lies_in(&place.path, mount)));
    places
}

/// Looks which of them are there. What is not is said.
pub(super) async fn find(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    wanted: Vec<Place>,
) -> anyhow::Result<Places> {
    let mut places = Places::default();
    let mounts = machine.mounts();
    places.without.extend(mounts.iter().map(|mount| plain(mount)));
    for place in wanted {
        if place.folder {
            if is_folder(backend, scope, machine, &place.path).await? {
                places.all.push(place);
            }
            continue;
        }
        let passed_over = match look(backend, scope, machine, &place.path).await? {
            Found::Folder(real) => {
                let leads = real.as_ref().and_then(|real| leads(&place.path, real, &mounts));
                if let (Some(real), None) = (&real, &leads) {
                    // A mount that is in it by another name.
                    let inner = mounts.iter().filter_map(|mount| mount.strip_prefix(real.as_str()));
                    let inner = inner.filter(|rest| rest.starts_with('/'));
                    places.without.extend(inner.map(|rest| format!("{}{rest}", place.path)));
                }
                leads
            }
            Found::File(real) => real.and_then(|real| leads(&place.path, &real, &mounts)),
            Found::Something => None,
            Found::Link => Some("it is a link, which is not followed".to_owned()),
            Found::Other => Some("it is neither a file nor a folder".to_owned()),
            Found::Nothing => Some("there is no such thing in it".to_owned()),
        };
        match passed_over {
            None => places.all.push(place),
            Some(why) => {
                let (sandbox, path) = (&machine.sandbox, &place.path);
                tracing::warn!(sandbox = %sandbox, path, "nothing is kept of a path: {why}");
            }
        }
    }
    let kept = places.all.clone();
    places.all.retain(|place| {
        kept.iter().all(|other| other.path == place.path || !lies_in(&place.path, &other.path))
    });
    places.all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(places)
}

/// Why nothing of a path is kept whose links lead elsewhere in the guest.
fn leads(path: &str, real: &str, mounts: &[&str]) -> Option<String> {
    let to = NOT_KEPT.iter().chain(mounts).find(|to| lies_in(real, to) && !lies_in(path, to))?;
    Some(format!("it leads through a link to {to}, where nothing is the agent's"))
}

/// What stands under a path, as far as the guest says: it may say what it likes, and harms only itself.
enum Found {
    /// A folder, and its path without links on the way.
    Folder(Option<String>),
    /// A file, and the same.
    File(Option<String>),
    /// One of these, or a link.
    Something,
    /// A link.
    Link,
    /// A device, a socket or a FIFO.
    Other,
    /// Nothing.
    Nothing,
}

async fn look(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    path: &str,
) -> anyhow::Result<Found> {
    let unasked = async || {
        let there = gives(backend, scope, machine, path).await?;
        Ok(if there { Found::Something } else { Found::Nothing })
    };
    // Who works there may go where root may not.
    for user in [ExecUser::Root, ExecUser::Sandbox] {
        let Some((code, said)) = ask(backend, scope, machine, user, LOOK_SH, path).await? else {
            return unasked().await;
        };
        let said = String::from_utf8_lossy(&said).into_owned();
        let mut lines = said.lines();
        let what = lines.next().filter(|_| code == 0);
        let name = path.rsplit('/').next().unwrap_or_default();
        let real = lines.next().map(|folder| plain(&format!("{folder}/{name}")));
        return Ok(match what {
            Some("folder") => Found::Folder(real),
            Some("file") => Found::File(real),
            Some("link") => Found::Link,
            Some("other") => Found::Other,
            Some("nothing") => Found::Nothing,
            Some("closed") => continue,
            // Not every image has a shell. Where the guest's own programs are the way, nothing is known then.
            _ if machine.backend != BackendKind::Smolmachines => return unasked().await,
            _ => anyhow::bail!("the shell of {} ended with {code}", machine.sandbox),
        });
    }
    unasked().await
}

/// Whether there is such a folder. The guest may say what it likes: what it denies is not kept.
async fn is_folder(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    path: &str,
) -> anyhow::Result<bool> {
    Ok(match look(backend, scope, machine, path).await? {
        Found::Folder(_) | Found::Something => true,
        // A home may be a link to a folder.
        Found::Link => ask(backend, scope, machine, ExecUser::Root, r#"[ -d "$1" ]"#, path)
            .await?
            .is_none_or(|(code, _)| code == 0),
        Found::File(_) | Found::Other => false,
        Found::Nothing => {
            let sandbox = &machine.sandbox;
            tracing::warn!(sandbox = %sandbox, path, "nothing is kept of a folder: it is not there");
            false
        }
    })
}

/// Has the guest's shell look at a path. `None`: it cannot be asked, and files may come out all the same.
async fn ask(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    user: ExecUser,
    script: &str,
    path: &str,
) -> anyhow::Result<Option<(i32, Vec<u8>)>> {
    if machine.state != InstanceState::Running {
        // Some engines give out files of what does not run.
        return Ok(None);
    }
    // Where the agent works may be closed to root, which inside has no right over others' folders.
    let workdir = Some("/".to_owned());
    let argv = ["sh", "-c", script, "sh", path];
    let spec = ExecSpec { user, workdir, ..ExecSpec::new(argv) };
    let asked = backend.exec(scope, machine, &spec, Bytes::new());
    let asked = tokio::time::timeout(ANSWER, asked).await;
    let asked = asked.map_err(|_| {
        anyhow::anyhow!("the shell of {} gave no answer in {} s", machine.sandbox, ANSWER.as_secs())
    })?;
    match asked {
        Ok(ended) => Ok(Some((ended.code, ended.stdout))),
        Err(error @ (BackendError::NotRunning { .. } | BackendError::Unreachable { .. })) => {
            Err(error.into())
        }
        Err(error) if machine.backend == BackendKind::Smolmachines => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Whether a machine gives something out under this path.
async fn gives(
    backend: &dyn Backend,
    scope: &Scope,
    machine: &Instance,
    path: &str,
) -> anyhow::Result<bool> {
    // Its first piece is enough. Some engines give out files of what does not run in this way only.
    let (send, mut pieces) = mpsc::channel(1);
    let first = async {
        let first = pieces.recv().await;
        drop(pieces);
        first.is_some()
    };
    match tokio::join!(backend.stream_out(scope, machine, path, send), first) {
        (_, true) => Ok(true),
        (Err(error), false) if error.is_absent() => Ok(false),
        (Err(error), false) => Err(error.into()),
        (Ok(()), false) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(fields: &[(&str, &str)]) -> Instance {
        Instance {
            id: crate::model::InstanceId("x".to_owned()),
            backend: BackendKind::Docker,
            resource: crate::model::ResourceKind::Machine,
            sandbox: crate::model::SandboxId::new("ada").unwrap(),
            place: None,
            name: "x".to_owned(),
            ownership: crate::model::Ownership::Ours,
            hash: None,
            fields: crate::model::Fields(
                fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            state: InstanceState::Running,
            boot: None,
            drift: Vec::new(),
            mendable: Vec::new(),
            notes: Vec::new(),
            image: None,
            created: None,
            overlay: None,
        }
    }

    fn places(keep: &Keep, fields: &[(&str, &str)], home: &str) -> Vec<(String, bool)> {
        let identity = Identity { uid: 1, gid: 1, home: home.to_owned() };
        let all = wanted(keep, &machine(fields), &identity);
        all.into_iter().map(|place| (place.path, place.folder)).collect()
    }

    #[test]
    fn what_is_kept_is_what_is_named_and_is_no_mount() {
        let copy = [("workspace.target", "/workspace")];
        let mount = [("workspace.target", "/w"), ("workspace.mount", "/srv/site")];
        let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
        let own = |path: &str| (path.to_owned(), false);
        let main = |path: &str| (path.to_owned(), true);
        let default = Keep::default();
        assert_eq!(places(&default, &copy, "/home/a/"), [main("/workspace"), main("/home/a")]);
        assert_eq!(places(&default, &mount, "/w/home"), [], "a home in a mount is the host's");
        assert_eq!(places(&default, &mount, "/"), [], "a user without a home");
        let named =
            Keep { workspace: false, home: false, paths: paths(&["/w/x", "/v", "/workspace"]) };
        assert_eq!(places(&named, &mount, "/root"), [own("/v"), own("/workspace")]);
        let both = Keep { workspace: true, home: false, ..named.clone() };
        assert_eq!(places(&both, &copy, "/root"), [main("/workspace"), own("/v"), own("/w/x")]);
        let nothing = Keep { paths: paths(&[]), ..named };
        assert_eq!(places(&nothing, &copy, "/root"), []);
        let shown = [("host_paths./opt/tools", "read-only")];
        let tools = Keep { paths: paths(&["/opt", "/opt/tools/x"]), ..nothing };
        assert_eq!(places(&tools, &shown, "/root"), [own("/opt")]);
    }

    #[test]
    fn a_link_leads_to_nothing_of_bottles_or_the_hosts() {
        let mounts = ["/w"];
        for (real, led) in [
            ("/proc/1", true),
            ("/run/bottle", true),
            ("/w/sub", true),
            ("/var/data", false),
            ("/wide", false),
        ] {
            assert_eq!(leads("/data/x", real, &mounts).is_some(), led, "{real}");
        }
    }
}
