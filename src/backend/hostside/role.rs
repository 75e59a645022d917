//! Which of the processes beside a machine it is: what is not the same for a sidecar and a git gate.

use super::user;
use crate::model::ResourceKind;

/// A process of the host's that stands beside a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Role {
    /// The only way out.
    Sidecar,
    /// What fetches and pushes. It is who starts it, for it opens that user's keys.
    Gate,
}

impl Role {
    /// All of them.
    pub(in crate::backend) const ALL: [Self; 2] = [Self::Sidecar, Self::Gate];

    /// That of such a part of a sandbox.
    pub(in crate::backend) fn of(kind: ResourceKind) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.kind() == kind)
    }

    /// Which part of a sandbox it is.
    pub(in crate::backend) fn kind(self) -> ResourceKind {
        match self {
            Self::Sidecar => ResourceKind::Sidecar,
            Self::Gate => ResourceKind::Gate,
        }
    }

    /// What it is called.
    pub(in crate::backend) fn name(self) -> &'static str {
        self.kind().as_str()
    }

    /// The folder of all of them.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecars",
            Self::Gate => "gate",
        }
    }

    /// The file that says what one was made from.
    pub(super) fn record(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar.json",
            Self::Gate => "gate.json",
        }
    }

    /// What the arguments of one begin with.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Sidecar => &["sidecar", "serve"],
            Self::Gate => &["gate", "keep"],
        }
    }

    /// The user of the host that a new one becomes; none: it stays who starts it.
    pub(super) fn user(self) -> Option<u32> {
        match self {
            Self::Sidecar => user::unprivileged(),
            Self::Gate => None,
        }
    }

    /// Whether one of another version of this program is replaced. A gate has a folder that is worth keeping: it is
    /// started anew instead.
    pub(super) fn is_replaced(self) -> bool {
        self == Self::Sidecar
    }
}
