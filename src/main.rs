//! Parse, run, exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The native backend starts this program again as its helper, before any second thread.
    #[cfg(target_os = "linux")]
    bottle::backend::native::helper_main();
    // So does what starts a sidecar beside this process.
    #[cfg(target_os = "linux")]
    if let Some(exit) = bottle::backend::hostside::main_if_asked() {
        return exit;
    }
    // A shell that wants something completed calls before anything else is parsed.
    if bottle::cli::complete() {
        return ExitCode::SUCCESS;
    }
    let cli = bottle::cli::parse();
    if let Some(exit) = bottle::cli::run_alone(&cli) {
        return exit;
    }
    bottle::cli::keep_small();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(bottle::cli::run(cli));
            // A thread that still waits for a person's answer is not waited for.
            runtime.shutdown_background();
            exit
        }
        Err(error) => bottle::cli::cannot_start(&error),
    }
}
