//! What agents ask for, as the operator meets it: the binary, a tree in git, and requests as a pass writes them
//! down. What is pulled out of sidecars is in `pulled`, what becomes of machines in `applied`.

mod applied;
mod crashed;
mod dashboard;
mod desk;
mod editor;
mod edits;
mod git;
mod killed;
mod pulled;
mod refused;
mod web;
mod words;
