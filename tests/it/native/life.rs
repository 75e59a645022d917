//! A sandbox comes, is used, stops, is started again, and goes.

use bottle::backend::ExecUser;
use bottle::model::InstanceState;

use super::support::{Corner, machine};

#[tokio::test]
async fn it_comes_and_goes() {
    let corner = Corner::new();
    let made = corner.create(&machine("ada")).await;
    assert_eq!(corner.only().await.state, InstanceState::Created);
    let started = corner.start(&made).await;
    assert_eq!(started.state, InstanceState::Running);
    assert_eq!(corner.only().await.boot, started.boot);
    let said = corner.say(&started, "id -u; id -un; pwd; echo $HOME; hostname; uname -s").await;
    assert_eq!(said, "1000\nagent\n/home/agent\n/home/agent\nada\nLinux");
    let root = corner.exec_as(ExecUser::Root, &started, &["id", "-u"]).await;
    assert_eq!(root.stdout, b"0\n");
    assert_eq!(corner.sh(&started, "exit 7").await.code, 7);
    assert_eq!(corner.sh(&started, "kill -9 $$").await.code, 137);
    corner.teardown(&started).await;
    corner.wipe().await;
}
