//! On a kernel without Landlock: a filter of this thread answers as one would.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use bottle::backend::ExecUser;
use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::fs::SealFlags;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::support::{Corner, machine, program, text};

/// Does it in a thread where the kernel, for it and all that it starts, has no Landlock.
fn without_landlock(work: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
            TargetArch::try_from(std::env::consts::ARCH).unwrap(),
        );
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        seccompiler::apply_filter(&filter).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(work);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_link_leads_to_the_file_of_bottle() {
    without_landlock(async {
        let corner = Corner::new();
        let on = corner.run(&machine("ada")).await;
        let exe = format!("/proc/{}/exe", corner.init(&on));
        let path = std::fs::read_link(&exe).unwrap();
        assert!(path.to_str().unwrap().starts_with("/memfd:"), "{}", path.display());
        let seals = rustix::fs::fcntl_get_seals(std::fs::File::open(&exe).unwrap()).unwrap();
        let wanted = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        assert!(seals.contains(wanted), "{seals:?}");
        for user in [ExecUser::Sandbox, ExecUser::Root] {
            // Executed by a process that is bottle until then: what runs is the copy.
            let output = corner.exec_as(user, &on, &["/proc/self/exe", "--version"]).await;
            assert!(output.stdout.starts_with(b"bottle "), "{}", text(&output));
            let probe = "[ -e /proc/1/exe ] && echo allowed || echo refused";
            let output = corner.exec_as(user, &on, &["sh", "-c", probe]).await;
            assert_eq!(output.stdout, b"refused\n", "{}", text(&output));
        }
        corner.wipe().await;
    });
}

#[tokio::test]
async fn with_landlock_it_is_not_even_executed() {
    let landlock = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Execute)
        .and_then(Ruleset::create);
    if landlock.is_err() {
        crate::support::left_out("executing /proc/self/exe", "this kernel has no Landlock");
        return;
    }
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    for user in [ExecUser::Sandbox, ExecUser::Root] {
        let output = corner.exec_as(user, &on, &["/proc/self/exe", "--version"]).await;
        assert_eq!(output.code, 126, "{}", text(&output));
    }
    corner.wipe().await;
}

#[test]
fn a_helper_that_is_the_file_itself_does_nothing() {
    without_landlock(async {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut helper = Command::new(program())
            .arg("__native")
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It says so before it has read what is asked of it.
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).unwrap();
        helper.wait().unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("has no Landlock"), "{answer}");
    });
}
