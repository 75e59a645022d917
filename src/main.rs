//! Parse, run, exit code; nothing else.

fn main() {
    #[cfg(target_os = "linux")]
    bottle::backend::native::helper_main();
}
