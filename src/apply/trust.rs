//! The sandbox's own CA in the guest's bundle of trusted certificates, for programs that heed none of
//! the variables that name a file.

use anyhow::Context as _;

use super::Context;
use super::upload::{self, Other, Tar};
use crate::backend::{Backend, Identity, Upload};
use crate::model::Instance;

/// Where distributions keep the bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Larger than any bundle.
const MAX_BUNDLE: u64 = 8 << 20;

const BEGIN: &str = "# bottle: this sandbox's own CA\n";
const END: &str = "# bottle: end\n";

/// Puts `pem` in the place of what stood there before, or takes that out.
pub(super) async fn trust(
    backend: &dyn Backend,
    context: &Context<'_>,
    machine: &Instance,
    user: &Identity,
    pem: Option<&str>,
) -> anyhow::Result<()> {
    let mut tar = Tar::new();
    // Files are read as any others: where the backend can, without a program of the guest's.
    for path in BUNDLES {
        let archive = match backend.copy_out(context.scope, machine, path, MAX_BUNDLE).await {
            Ok(archive) => archive,
            Err(error) if error.is_absent() => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {path}")),
        };
        let old = match upload::found(&archive, user).with_context(|| format!("reading {path}"))? {
            // The others are links to one of them.
            None | Some(Err(Other::Link)) => continue,
            Some(Ok(old)) => old,
            Some(Err(other)) => {
                tracing::warn!(path, what = other.words(), "a CA is not written into a bundle");
                continue;
            }
        };
        let new = with(&old.content, pem);
        if new != old.content {
            // As it was: what is read there may not become anybody else's to read.
            tar.file(path, old.mode, old.owner, &new)?;
        }
    }
    if !tar.is_empty() {
        let upload = Upload { tar: tar.finish()?, ..Upload::default() };
        backend.copy_in(context.scope, machine, upload).await?;
    }
    Ok(())
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
