//! What to do about a program that is not in a sandbox.

use crate::model::{BackendKind, Instance};

/// How a shell, and what starts programs in sandboxes, says that there is no such program.
pub const NOT_FOUND: i32 = 127;

/// What brings a program into a sandbox; `file`: its bottle.
#[must_use]
pub fn brings(machine: &Instance, program: &str, file: &str) -> String {
    let image = machine.fields.0.get("image").map_or("host", String::as_str);
    if machine.backend == BackendKind::Native && image == "host" {
        return match program.contains('/') {
            true => format!("name its folder under `host_paths` in {file}"),
            false => format!(
                "`tools: [{program}]` in {file} brings in the one that is on your own PATH, where there is one"
            ),
        };
    }
    format!(
        "put it into the image: `image: {{build: ./FOLDER}}` in {file}, with a Dockerfile that installs it, or install it by `setup:`"
    )
}
