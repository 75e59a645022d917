//! Names: of sandboxes, owners, backends, resources and instances.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a sandbox or an owner, in bytes: a DNS label, which is what hostnames allow.
pub const MAX_NAME: usize = 63;

/// A name that is not `[a-z][a-z0-9-]*`, or is longer than [`MAX_NAME`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: expected [a-z][a-z0-9-]*, at most {MAX_NAME} characters")]
pub struct InvalidName(
    /// What was found instead.
    pub String,
);

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_NAME
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`InvalidName`] when it does not match `[a-z][a-z0-9-]*` or is too long.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(InvalidName(text)) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type! {
    /// The name of a sandbox: the name of its agent's file, without `.md`.
    SandboxId
}

name_type! {
    /// The tree that a resource belongs to: `name:` of `bottle.yaml`, else a digest of its path.
    OwnerId
}

/// What makes machines.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Linux namespaces, made by `bottle` itself.
    Native,
    /// Containers of a Docker engine.
    Docker,
    /// MicroVMs of the `smolvm` program.
    Smolmachines,
    /// The seeded in-memory backend of the tests.
    #[cfg(feature = "testing")]
    Memory,
}

impl BackendKind {
    /// The name, as manifests and JSON spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
            Self::Smolmachines => "smolmachines",
            #[cfg(feature = "testing")]
            Self::Memory => "memory",
        }
    }

    /// Sandboxes can have a sidecar there. Without one a machine has no network at all.
    #[must_use]
    pub fn has_sidecars(self) -> bool {
        match self {
            Self::Native | Self::Docker | Self::Smolmachines => true,
            #[cfg(feature = "testing")]
            Self::Memory => true,
        }
    }

    /// Sandboxes can have a git gate there.
    #[must_use]
    pub fn has_gates(self) -> bool {
        match self {
            Self::Native | Self::Docker => true,
            Self::Smolmachines => false,
            #[cfg(feature = "testing")]
            Self::Memory => true,
        }
    }

    /// A machine reaches its git gate by its sidecar there: with a gate it has a sidecar, whatever else it is granted.
    #[must_use]
    pub fn gates_by_sidecar(self) -> bool {
        self == Self::Docker
    }

    /// Files of a machine that was set aside can be read there.
    #[must_use]
    pub fn reads_aside(self) -> bool {
        self == Self::Docker
    }

    /// Files of a machine can be read there while nothing of its own runs in it.
    #[must_use]
    pub fn quiesces(self) -> bool {
        match self {
            Self::Native | Self::Docker | Self::Smolmachines => true,
            #[cfg(feature = "testing")]
            Self::Memory => true,
        }
    }

    /// A machine can be set aside there for the one that takes its place. What `smolvm` knows a machine by
    /// cannot change.
    #[must_use]
    pub fn sets_aside(self) -> bool {
        match self {
            Self::Native | Self::Docker => true,
            Self::Smolmachines => false,
            #[cfg(feature = "testing")]
            Self::Memory => true,
        }
    }

    /// A sandbox's network is an object of its own there. Elsewhere it is a part of the machine.
    #[must_use]
    pub fn has_networks(self) -> bool {
        match self {
            Self::Docker => true,
            Self::Native | Self::Smolmachines => false,
            #[cfg(feature = "testing")]
            Self::Memory => true,
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A part of a sandbox that has its own content hash, in the order in which one stands on another.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ResourceKind {
    /// The sandbox's own network.
    Network,
    /// The process beside the machine that is its only way out.
    Sidecar,
    /// The process beside the machine that fetches and pushes for it.
    Gate,
    /// The container, microVM or namespace sandbox itself.
    Machine,
    /// What is put into a running machine.
    Guest,
    /// An image that `bottle` itself imported, shared by the sandboxes that use it.
    Image,
}

impl ResourceKind {
    /// The name, as labels and JSON spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Sidecar => "sidecar",
            Self::Gate => "gate",
            Self::Machine => "machine",
            Self::Guest => "guest",
            Self::Image => "image",
        }
    }

    /// What this resource stands on: replaced with it, created after it.
    ///
    /// A sidecar is replaced beside its running machine, so the machine does not stand on it. A gate is a process of
    /// the host's, whatever its sandbox is on.
    #[must_use]
    pub fn stands_on(self) -> &'static [ResourceKind] {
        match self {
            Self::Network | Self::Gate | Self::Image => &[],
            Self::Sidecar | Self::Machine => &[Self::Network],
            Self::Guest => &[Self::Machine],
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ResourceKind {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        [Self::Network, Self::Sidecar, Self::Gate, Self::Machine, Self::Guest, Self::Image]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidName(text.to_owned()))
    }
}

/// One resource of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId {
    /// The sandbox that it is a part of.
    pub sandbox: SandboxId,
    /// Which part.
    pub kind: ResourceKind,
}

/// What the engine calls an object: a container's id, a machine's name. Opaque to us.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(
    /// The engine's own text.
    pub String,
);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
