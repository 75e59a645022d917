//! Landlock: a second wall behind the mount namespace.
//!
//! Files are reached only beneath the sandbox's own `/`. A descriptor or a `/proc` link that leads
//! outside (the host's programs, a terminal, another mount namespace) opens nothing, and no device
//! node can be made. Kernels without Landlock, or with an older one, get what they have; see `sealed`.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};

const NEWEST: ABI = ABI::V8;

/// Restricts this process and all that it starts to what is beneath `/`.
pub(super) fn restrict() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let handled = AccessFs::from_all(NEWEST);
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .create()?
        .add_rule(PathBeneath::new(
            PathFd::new("/")?,
            handled & !(AccessFs::MakeBlock | AccessFs::MakeChar),
        ))?
        .restrict_self()?;
    Ok(())
}

/// Whether this kernel has Landlock, and lets us use it.
pub(super) fn available() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}
