//! Tars on their way into a guest: numeric owners, no times, no names that could leave the root.

use anyhow::Context as _;
use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use crate::backend::Identity;

/// A tar under construction; names are absolute guest paths.
pub(super) struct Tar {
    builder: Builder<Vec<u8>>,
    entries: usize,
}

/// Who owns an entry.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
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

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.builder.get_ref().len()
    }

    fn header(kind: EntryType, mode: u32, owner: Owner, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(0);
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
