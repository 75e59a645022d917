//! A skill's files, read once: what was checked and hashed is what is copied.

use std::fmt;
use std::sync::Arc;

use super::hash::{Fields, SpecHash};

/// What one entry of a skill is.
#[derive(Clone, PartialEq, Eq)]
pub enum SkillNode {
    /// A folder, also an empty one.
    Folder,
    /// A regular file and its content.
    File(Arc<[u8]>),
    /// A symlink that stays inside the skill, with its target as written.
    Symlink(String),
}

impl fmt::Debug for SkillNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder => f.write_str("Folder"),
            Self::File(bytes) => write!(f, "File({} bytes)", bytes.len()),
            Self::Symlink(target) => write!(f, "Symlink({target})"),
        }
    }
}

/// One entry of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillEntry {
    /// The path relative to the skill's folder, with `/` separators; never empty, never `..`.
    pub path: String,
    /// Permission bits, `0o777` at most: set-id and sticky bits are dropped.
    pub mode: u32,
    /// What it is.
    pub node: SkillNode,
}

/// A skill as a whole, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillFiles {
    entries: Vec<SkillEntry>,
    hash: SpecHash,
}

impl SkillFiles {
    /// Sorts and hashes the entries: path, mode, kind and content each count.
    #[must_use]
    pub fn new(mut entries: Vec<SkillEntry>) -> Self {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut fields = Fields::default();
        for entry in &entries {
            let content = match &entry.node {
                SkillNode::Folder => "folder".to_owned(),
                SkillNode::File(bytes) => format!("file {}", SpecHash::of_bytes(bytes)),
                SkillNode::Symlink(target) => format!("symlink {target}"),
            };
            fields.set(entry.path.clone(), format!("{:o} {content}", entry.mode));
        }
        let hash = fields.hash("bottle.skill.v1");
        Self { entries, hash }
    }

    /// The entries, sorted by path: a folder stands before what is in it.
    #[must_use]
    pub fn entries(&self) -> &[SkillEntry] {
        &self.entries
    }

    /// The content hash of the whole skill.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.hash
    }
}
