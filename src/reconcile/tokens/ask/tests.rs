use std::os::unix::fs::symlink;
use std::time::Instant;

use super::*;

fn at(path: &str) -> Judged {
    Judged { path: path.into(), called: path.into() }
}

async fn sh(script: &str, deadline: Duration) -> Result<String, String> {
    let argv = ["sh", "-c", script].map(str::to_owned);
    let ran = run(&argv, Path::new("/usr"), &at("/bin/sh"), deadline).await;
    let said = ran.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    said.map_err(|failure| match failure {
        Failure::Hangs => "hangs".to_owned(),
        Failure::Other(what) => what,
    })
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_command_has_a_clean_environment_and_no_input() {
    let said = sh("cat; pwd; env", LONG).await.unwrap();
    let mut lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.remove(0), "/usr");
    for line in &lines {
        let (name, _) = line.split_once('=').unwrap();
        let known = ["PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"];
        assert!(known.contains(&name) || PASSED_ON.contains(&name), "{line}");
    }
    assert!(lines.contains(&&*format!("PATH={PATH}")), "{lines:?}");
    assert_eq!(sh("echo one; echo two >&2", LONG).await.unwrap(), "one\n");
}

#[tokio::test]
async fn a_command_that_fails_or_goes_on_gives_nothing() {
    assert_eq!(sh("echo half; exit 3", LONG).await.unwrap_err(), "ended with exit status: 3");
    let short = Duration::from_millis(300);
    let began = Instant::now();
    // It is gone, with what it has started: a second process holds its output open.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let script = format!("(sleep 2; echo late > {}) & echo token", mark.display());
    assert_eq!(sh(&script, short).await.unwrap_err(), "hangs");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!mark.exists(), "what it had started goes on");
    // Without an end to what it says, it is not read to its end.
    assert!(sh("yes", LONG).await.unwrap().len() > LARGEST);
    let missing = run(&["x".to_owned()], Path::new("/"), &at("/nowhere/x"), LONG).await;
    let Err(Failure::Other(what)) = missing else { panic!("it is not there") };
    assert!(what.starts_with("cannot be started"), "{what}");
}

#[test]
fn a_file_is_read_as_it_was_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("token"), "abc\n").unwrap();
    assert_eq!(**read(&path("token")).unwrap(), *b"abc\n");
    symlink(path("token"), path("link")).unwrap();
    assert!(read(&path("link")).is_err());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(read(&path("fifo")).is_err(), "it is not waited for");
    std::fs::write(path("large"), vec![b'x'; 10 * LARGEST]).unwrap();
    assert_eq!(read(&path("large")).unwrap().len(), LARGEST + 1);
}

#[tokio::test]
async fn a_token_is_what_stands_before_the_end_of_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let of = async |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        let from = TokenFrom {
            source: TokenSource::File(path.clone()),
            tree: folder.path().into(),
            place: crate::model::Place::default(),
        };
        let judged = Judged { path: path.clone(), called: path.clone() };
        let hung = Hung::default();
        had(&from, judged, &hung)
            .await
            .map(|token| token.to_string())
            .map_err(|trouble| trouble.what)
    };
    assert_eq!(of(b"abc\n").await.unwrap(), "abc");
    assert_eq!(of(b"abc\r\n\n").await.unwrap(), "abc");
    assert_eq!(of(b"abc").await.unwrap(), "abc");
    assert_eq!(of(b"\n").await.unwrap_err(), "it is empty");
    assert_eq!(of(b"\xff\n").await.unwrap_err(), "it is not UTF-8");
    let long = of(&vec![b'x'; LARGEST + 1]).await.unwrap_err();
    assert!(long.contains("longer than"), "{long}");
}

/// What hangs is not waited for in every pass.
#[tokio::test]
async fn a_command_that_hung_is_left_alone_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let script = format!("echo token; : > {}", mark.display());
    let from = TokenFrom {
        source: TokenSource::Command(["sh", "-c", &script].map(str::to_owned).to_vec()),
        tree: folder.path().into(),
        place: crate::model::Place::default(),
    };
    let hung = Hung::default();
    hung.note(&from.source);
    let trouble = had(&from, at("/bin/sh"), &hung).await.map(|_| ()).unwrap_err();
    assert!(trouble.what.contains("has not ended"), "{}", trouble.what);
    assert!(!mark.exists(), "it was run");
    assert_eq!(had(&from, at("/bin/sh"), &Hung::default()).await.ok().unwrap().as_str(), "token");
    assert!(mark.exists());
}
