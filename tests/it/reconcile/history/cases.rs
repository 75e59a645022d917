//! Histories of a few steps, each of which once lost something or might have.

use super::world::{World, other_target};
use crate::native::full_disk::Small;
use crate::reconcile::rig::Rig;

/// The disk is full while the work is kept (48 MiB), and while it goes into the new machine (80 MiB): the old machine
/// runs on, and the next try with room is a replace as any other.
pub(super) fn a_full_disk(mut rig: Rig, megabytes: u32) {
    let small = Small::new(megabytes);
    let state = small.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&state, rig.cli.state()).unwrap();
    rig.cli.env("BOTTLE_STATE_DIR", &state);
    let mut world = World::new(rig);
    world.at_work();
    let before = world.machines();
    world.rig.inside("ada", "head -c 30000000 /dev/urandom > ~/big");
    world.edit(0, |says| says.target = other_target(says.target));
    world.apply(3);
    assert_eq!(world.machines(), before, "the old one runs on");
    world.at_work();
    world.rig.inside("ada", "rm ~/big");
    world.apply(0);
    world.at_work();
    world.check();
    drop(world);
    drop(small);
}
