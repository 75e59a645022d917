//! A command on the caller's stdio: descriptors, and a real terminal.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use bottle::backend::{Attach, Backend, ExecSpec};

use super::support::{Corner, PROGRAM, machine, program};
use crate::support::Screen;

#[tokio::test]
async fn nothing_that_a_caller_left_open_gets_inside() {
    let corner = Corner::new();
    let folder = File::open(corner.beside()).unwrap();
    // Not marked close-on-exec: every child of this process has it.
    let leaked = rustix::io::dup(&folder).unwrap();
    let mut spec = machine("ada");
    spec.command = ["sh", "-c", "ls -l /proc/self/fd"].map(str::to_owned).to_vec();
    spec.restart = bottle::model::Restart::Never;
    let on = corner.run(&spec).await;
    corner.ready(&on).await;
    corner.main_becomes(&on, |state| *state == bottle::backend::MainState::Completed).await;
    let inside = corner.say(&on, "ls -l /proc/self/fd").await;
    let main = corner.log(&on).await;
    for said in [inside, main] {
        // stdin, stdout, stderr, and the folder that is being listed.
        assert_eq!(said.matches(" -> ").count(), 4, "{said}");
        assert!(!said.contains(corner.beside().to_str().unwrap()), "{said}");
    }
    drop(leaked);
    corner.wipe().await;
}

/// In which folder the process below finds the sandbox.
const FOLDER: &str = "BOTTLE_TEST_TERMINAL";

/// Not a test by itself: started by the one below, on a terminal.
#[tokio::test]
async fn on_a_terminal() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let corner = std::mem::ManuallyDrop::new(Corner::in_folder(folder.as_ref()));
    let on = corner.only().await;
    let spec = ExecSpec::new(["bash", "--norc", "--noprofile"]);
    let attach = Attach { stdin: true, tty: true };
    let code = corner.backend.attach(&corner.scope, &on, &spec, attach).await.unwrap();
    println!("ended with {code}");
}

fn screen(corner: &Corner) -> Screen {
    let mut on_a_terminal = Command::new(std::env::current_exe().unwrap());
    on_a_terminal
        .args(["--exact", "native::terminal::on_a_terminal", "--nocapture"])
        .env(FOLDER, corner.beside())
        .env(PROGRAM, program());
    Screen::open(&on_a_terminal, Duration::from_secs(20))
}

#[tokio::test(flavor = "multi_thread")]
async fn size_signals_and_job_control() {
    let corner = Corner::new();
    corner.run(&machine("ada")).await;
    let screen = screen(&corner);
    screen.shows("$ ");
    screen.type_in("tty; stty size\n");
    screen.shows("/dev/pts/0");
    screen.shows("30 100");
    screen.resize(41, 123);
    // The change is followed, not only seen at the start.
    screen.type_in("sleep 0.3; stty size\n");
    screen.shows("41 123");
    // It says so itself when it has the terminal: before, a key would reach the shell.
    screen.type_in("sh -c 'echo fore''ground; exec sleep 50'\n");
    screen.shows("foreground");
    screen.type_in("\x03");
    screen.type_in("echo co''de $?\n");
    screen.shows("code 130");
    screen.type_in("sh -c 'echo fore''ground; exec sleep 60'\n");
    screen.shows("foreground");
    screen.type_in("\x1a");
    screen.shows("Stopped");
    screen.type_in("kill %1; fg; echo re''gained\n");
    screen.shows("regained");
    screen.type_in("exit 7\n");
    screen.shows("ended with 7");
    drop(screen);
    corner.wipe().await;
}
