#[cfg(target_os = "linux")]
mod native;
