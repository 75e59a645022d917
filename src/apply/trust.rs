//! The sandbox's own CA in the guest's bundle of trusted certificates, for programs that heed none of
//! the variables that name a file.

use anyhow::Context as _;
use bytes::Bytes;

use super::Context;
use super::upload::{Owner, Tar};
use crate::backend::{Backend, ExecSpec, ExecUser, Upload};
use crate::model::Instance;

/// Where distributions keep the bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Names the bundles that are there, one a line. The others are links to one of them.
const FIND: &str = "for f; do if [ -f \"$f\" ] && [ ! -L \"$f\" ]; then echo \"$f\"; fi; done";

/// Larger than any bundle.
const MAX_BUNDLE: u64 = 8 << 20;

const BEGIN: &str = "# bottle: this sandbox's own CA\n";
const END: &str = "# bottle: end\n";

/// Puts `pem` in the place of what stood there before, or takes that out.
pub(super) async fn trust(
    backend: &dyn Backend,
    context: &Context<'_>,
    machine: &Instance,
    pem: Option<&str>,
) -> anyhow::Result<()> {
    let argv = ["sh", "-c", FIND, "sh"].into_iter().chain(BUNDLES);
    let find = ExecSpec { user: ExecUser::Root, ..ExecSpec::new(argv) };
    let found = backend.exec(context.scope, machine, &find, Bytes::new()).await?;
    // An image without a shell has no programs that read a bundle either, but for those that the
    // variables reach.
    let found = if found.code == 0 {
        String::from_utf8(found.stdout).unwrap_or_default()
    } else {
        String::new()
    };
    let mut tar = Tar::new();
    // The guest could name anything: only what was asked about counts.
    for path in BUNDLES.iter().filter(|path| found.lines().any(|line| line == **path)) {
        let archive = backend.copy_out(context.scope, machine, path, MAX_BUNDLE).await?;
        let Some(old) = only_file(&archive).with_context(|| format!("reading {path}"))? else {
            continue;
        };
        let new = with(&old, pem);
        if new != old {
            tar.file(path, 0o644, Owner::ROOT, &new)?;
        }
    }
    if !tar.is_empty() {
        let upload = Upload { tar: tar.finish()?, ..Upload::default() };
        backend.copy_in(context.scope, machine, upload).await?;
    }
    Ok(())
}

/// The content of the one regular file of an archive.
fn only_file(archive: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let mut archive = tar::Archive::new(archive);
    let Some(entry) = archive.entries()?.next() else { return Ok(None) };
    let mut entry = entry?;
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content)?;
    Ok(Some(content))
}

/// A bundle with `pem` between our two marks, and nothing between them where there is none.
fn with(bundle: &[u8], pem: Option<&str>) -> Vec<u8> {
    let find = |haystack: &[u8], mark: &str| memchr::memmem::find(haystack, mark.as_bytes());
    let mut new = bundle.to_vec();
    if let Some(begin) = find(&new, BEGIN)
        && let Some(length) = find(&new[begin..], END)
    {
        new.drain(begin..begin + length + END.len());
    }
    if let Some(pem) = pem {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        for part in [BEGIN, pem.trim_end(), "\n", END] {
            new.extend_from_slice(part.as_bytes());
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_holds_one_of_ours_at_most() {
        let once = with(b"THEIRS", Some("OURS\n"));
        let text = format!("THEIRS\n{BEGIN}OURS\n{END}");
        assert_eq!(String::from_utf8_lossy(&once), text);
        assert_eq!(with(&once, Some("OURS")), once);
        let renewed = with(&once, Some("NEW"));
        assert_eq!(String::from_utf8_lossy(&renewed), text.replace("OURS", "NEW"));
        assert_eq!(with(&renewed, None), b"THEIRS\n");
    }
}
