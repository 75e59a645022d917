//! What happens in a history, how it is drawn, and how it is carried out.

use super::dice::Dice;
use super::tree::{Fault, HOME, NAMED, WORKSPACE};
use super::world::{World, other_target};

/// One thing that happens. The number says to which agent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Edit(usize, Edit),
    Rename { index: usize, was: bool },
    Delete(usize),
    Add(usize),
    Fail(usize, Fault),
    Stop(usize),
    Start(usize),
    Restart(usize),
    Save(usize),
    Down,
}

/// A field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edit {
    Env,
    Memory,
    Command,
    Restart,
    User,
    Image,
    Target,
    Site,
    Shown,
    Host,
    Role,
    Prompt,
    Skill,
    Keep(char),
    Backend,
}

const NAMES: [&str; 9] = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy"];

const IN_PLACE: [Edit; 7] = [
    Edit::Env,
    Edit::Memory,
    Edit::Command,
    Edit::Restart,
    Edit::Prompt,
    Edit::Skill,
    Edit::Keep(NAMED),
];
const ANEW: [Edit; 6] =
    [Edit::User, Edit::Image, Edit::Target, Edit::Site, Edit::Shown, Edit::Target];
const WAY_OUT: [Edit; 2] = [Edit::Host, Edit::Role];
const FAULTS: [Fault; 6] =
    [Fault::NoImage, Fault::NoShell, Fault::NoHome, Fault::Broken, Fault::NoRoom, Fault::NoRecord];

/// What happens next.
pub(super) fn draw(dice: &mut Dice, world: &World) -> Step {
    let count = world.agents.len();
    if count == 0 || (count < 3 && dice.chance(40)) {
        return Step::Add(dice.below(NAMES.len()));
    }
    let index = dice.below(count);
    if world.agents[index].stopped && dice.chance(40) {
        return Step::Start(index);
    }
    match dice.below(100) {
        0..30 => Step::Edit(index, dice.one_of(&ANEW)),
        30..46 => Step::Edit(index, dice.one_of(&IN_PLACE)),
        46..49 => Step::Edit(index, Edit::Keep(dice.one_of(&[WORKSPACE, HOME, NAMED]))),
        49..55 => Step::Edit(index, dice.one_of(&WAY_OUT)),
        55..60 if world.rig.backend == "docker" => Step::Edit(index, Edit::Backend),
        // Of one that does not run nothing fails.
        55..68 if world.agents[index].stopped => Step::Start(index),
        55..68 => Step::Fail(index, dice.one_of(&FAULTS)),
        68..77 => Step::Rename { index, was: dice.chance(65) },
        77..83 => Step::Delete(index),
        83..87 => Step::Stop(index),
        87..91 => Step::Restart(index),
        91..96 => Step::Save(index),
        _ => Step::Down,
    }
}

/// A name that no agent has.
fn free(world: &World, from: usize) -> &'static str {
    let taken = |name: &str| world.agents.iter().any(|agent| agent.name == name);
    let mut names = NAMES.iter().cycle().skip(from);
    names.find(|name| !taken(name)).expect("there are more names than agents")
}

/// Carries it out, and looks whether all is where it must be. `killed`: the first try is.
pub(super) fn carry_out(world: &mut World, dice: &mut Dice, step: Step, killed: bool) {
    world.at_work();
    match step {
        Step::Edit(index, edit) => {
            // One by one they are drawn, so that a seed means the same whatever the edit needs.
            let number = dice.below(1000);
            world.edit(index, |says| match edit {
                Edit::Env => says.env += 1,
                Edit::Memory => says.memory += 1,
                Edit::Command => says.command += 1,
                Edit::Restart => {
                    says.restart = if says.restart == "always" { "on-failure" } else { "always" };
                }
                Edit::User => says.root = !says.root,
                Edit::Image => says.image += 1,
                Edit::Target => says.target = other_target(says.target),
                Edit::Site => {
                    let others = [Some("one"), Some("two"), None];
                    let others: Vec<_> = others.into_iter().filter(|s| *s != says.site).collect();
                    says.site = others[number % others.len()];
                    // The folder alone is no reason for another machine.
                    says.target = other_target(says.target);
                }
                Edit::Shown => says.shown = !says.shown,
                Edit::Host => says.host = (!number.is_multiple_of(3)).then_some(number % 7),
                Edit::Role => says.role = !says.role,
                Edit::Prompt => says.prompt += 1,
                Edit::Skill => says.skill = !says.skill,
                Edit::Keep(root) => {
                    if !says.keep.remove(&root) {
                        says.keep.insert(root);
                    }
                }
                Edit::Backend => {
                    says.backend = if says.backend == "docker" { "native" } else { "docker" };
                    says.image = number;
                }
            });
            apply(world, dice, killed);
        }
        Step::Rename { index, was } => {
            let name = free(world, dice.below(NAMES.len()));
            world.rename(index, name, was);
            apply(world, dice, killed);
        }
        Step::Delete(index) => {
            world.remove(index);
            apply(world, dice, killed);
        }
        Step::Add(from) => {
            let name = free(world, from);
            let site = dice.one_of(&[Some("one"), Some("two"), None]);
            world.add(name, super::tree::Says::on(world.rig.backend, site));
            apply(world, dice, killed);
        }
        Step::Fail(index, fault) => {
            let before = world.agents[index].says.clone();
            // A sandbox of processes needs no shell to be made.
            let shell = fault == Fault::NoShell && before.backend == "native";
            let fault = if shell { Fault::NoImage } else { fault };
            let fails = world.block(index, fault);
            if killed {
                world.kill(dice, world.rig.applier());
            }
            // What containers keep is passed from machine to machine. It needs room only where a kill left more of it.
            let may = fault == Fault::NoRoom && before.backend == "docker";
            match fails {
                _ if may => world.tries(),
                true => world.fails(),
                false => world.apply(0),
            }
            world.unblock(index);
            if dice.chance(50) {
                world.agents[index].says = before;
                world.write();
            }
            world.apply(0);
        }
        Step::Stop(index) => {
            let name = world.agents[index].name.clone();
            world.order(&["stop", &name]).exits(0);
            world.agents[index].stopped = true;
            world.settle(true);
        }
        Step::Start(index) | Step::Restart(index) => {
            let verb = if matches!(step, Step::Start(_)) { "start" } else { "restart" };
            let name = world.agents[index].name.clone();
            world.order(&[verb, &name, "--yes"]).exits(0);
            world.agents[index].stopped = false;
            world.settle(true);
        }
        Step::Save(index) => {
            let name = world.agents[index].name.clone();
            let stopped = world.agents[index].stopped;
            let saved = world.order(&["snapshot", "save", &name, "--all"]);
            if !stopped {
                saved.exits(0);
            }
            world.settle(true);
        }
        Step::Down => {
            let lives: Vec<usize> = world.agents.iter().map(|agent| agent.life).collect();
            lives.into_iter().for_each(|life| world.lays_down(life));
            let down = ["down", "--yes", "--allow-teardown", "all"];
            if killed {
                let tree = world.rig.tree_path();
                let down = [&["--tree", &tree], &down[..]].concat();
                world.kill(dice, world.rig.cli.command(down));
            }
            world.order(&down).exits(0);
            let agents = std::mem::take(&mut world.agents);
            world.settle(false);
            world.agents = agents;
            world.all_anew();
            world.write();
            world.apply(0);
        }
    }
}

fn apply(world: &mut World, dice: &mut Dice, killed: bool) {
    if killed {
        world.kill(dice, world.rig.applier());
        if dice.chance(40) {
            meanwhile(world, dice);
        }
        if dice.chance(30) {
            world.kill(dice, world.rig.applier());
        }
    }
    world.apply(0);
}

/// What the operator makes of the tree before the next try.
fn meanwhile(world: &mut World, dice: &mut Dice) {
    if world.agents.is_empty() {
        return;
    }
    let index = dice.below(world.agents.len());
    let what = dice.below(4);
    world.told.push(format!("meanwhile {what} to {}", world.agents[index].name));
    println!("{}", world.told.last().expect("it was just told"));
    match what {
        0 => world.remove(index),
        // A rename that may not have begun is not the one to follow another.
        1 | 2 if world.agents[index].was.is_none() => {
            let name = free(world, dice.below(NAMES.len()));
            world.rename(index, name, what == 1);
        }
        _ => world.edit(index, |says| says.target = other_target(says.target)),
    }
}
