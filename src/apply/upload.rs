//! Tars on their way into a guest: numeric owners, one time, no names that could leave the root.

use std::io::Read as _;

use anyhow::Context as _;
use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use crate::backend::Identity;

/// A file of the guest's, as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) owner: Owner,
}

/// Why a file of the guest's is left alone.
#[derive(Debug)]
pub(super) enum Other {
    Link,
    NoFile,
    /// The sandbox's user may not read it. What is put into its place is that user's to read.
    NotReadable,
}

impl Other {
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Link => "it is a link",
            Self::NoFile => "it is no regular file",
            Self::NotReadable => "the sandbox's user may not read it",
        }
    }
}

/// The one file of an archive; `None` where there is nothing in it.
pub(super) fn found(
    archive: &[u8],
    user: &Identity,
) -> anyhow::Result<Option<Result<Found, Other>>> {
    let mut archive = tar::Archive::new(archive);
    let Some(entry) = archive.entries()?.next() else { return Ok(None) };
    let mut entry = entry?;
    let header = entry.header();
    if header.entry_type().is_symlink() {
        return Ok(Some(Err(Other::Link)));
    }
    if !header.entry_type().is_file() {
        return Ok(Some(Err(Other::NoFile)));
    }
    let mode = header.mode()? & 0o777;
    let owner = Owner { uid: u32::try_from(header.uid()?)?, gid: u32::try_from(header.gid()?)? };
    // Its owner can give itself the right.
    let readable =
        owner.uid == user.uid || mode & if owner.gid == user.gid { 0o040 } else { 0o004 } != 0;
    if !readable {
        return Ok(Some(Err(Other::NotReadable)));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok(Some(Ok(Found { content, mode, owner })))
}

/// A tar under construction; names are absolute guest paths.
pub(super) struct Tar {
    builder: Builder<Vec<u8>>,
    entries: usize,
}

/// The time of all that we write ourselves: always the same, so that nothing changes from one run to
/// the next, and late enough for formats that begin in 1980.
const OURS: u64 = 946_684_800;

/// Who owns an entry.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Owner {
    pub(super) const ROOT: Self = Self { uid: 0, gid: 0 };

    pub(super) fn of(identity: &Identity) -> Self {
        Self { uid: identity.uid, gid: identity.gid }
    }
}

impl Tar {
    pub(super) fn new() -> Self {
        Self { builder: Builder::new(Vec::new()), entries: 0 }
    }

    /// One that does not grow, and so leaves nothing behind, for one file of so many bytes.
    pub(super) fn with_room(bytes: usize) -> Self {
        const BLOCK: usize = 512;
        // Its header, and the two blocks at the end.
        let room = bytes.next_multiple_of(BLOCK) + 4 * BLOCK;
        Self { builder: Builder::new(Vec::with_capacity(room)), entries: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn header(kind: EntryType, mode: u32, owner: Owner, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(OURS);
        header.set_size(size);
        header
    }

    pub(super) fn file(
        &mut self,
        path: &str,
        mode: u32,
        owner: Owner,
        content: &[u8],
    ) -> anyhow::Result<()> {
        let mut header = Self::header(EntryType::Regular, mode, owner, content.len() as u64);
        self.builder
            .append_data(&mut header, relative(path), content)
            .with_context(|| path.to_owned())?;
        self.entries += 1;
        Ok(())
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32, owner: Owner) -> anyhow::Result<()> {
        let mut header = Self::header(EntryType::Directory, mode, owner, 0);
        let name = format!("{}/", relative(path));
        self.builder
            .append_data(&mut header, name, std::io::empty())
            .with_context(|| path.to_owned())?;
        self.entries += 1;
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str, owner: Owner) -> anyhow::Result<()> {
        let mut header = Self::header(EntryType::Symlink, 0o777, owner, 0);
        self.builder
            .append_link(&mut header, relative(path), target)
            .with_context(|| path.to_owned())?;
        self.entries += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> anyhow::Result<Bytes> {
        Ok(self.builder.into_inner()?.into())
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/').trim_end_matches('/')
}
