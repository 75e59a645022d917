//! What machines are made from.

use bottle::backend::{BackendError, Progress};
use bottle::model::{LeftoverKind, MachineSpec, ResourceSpec};

use super::{Fixture, ada, create, exec, machine, named, observe, only, start};

pub(crate) async fn an_absent_image_touches_nothing(f: &dyn Fixture) {
    create(f, &machine(f, ada())).await;
    let there = only(f).await;
    // Where the usual image is an import, that one is listed.
    let listed = observe(f).await.leftovers;
    let spec = MachineSpec { image: f.absent_image(), ..machine(f, ada()) };
    let prepared = f.backend().prepare(f.scope(), &spec, &Progress::silent()).await;
    let Err(BackendError::Image { image, reason }) = prepared else { panic!("{prepared:?}") };
    assert_eq!(image, spec.image.to_string());
    assert!(!reason.is_empty());
    assert_eq!(only(f).await, there);
    let elsewhere = MachineSpec { image: f.absent_image(), ..machine(f, named("bob")) };
    let created = f.backend().create(f.scope(), &ResourceSpec::Machine(elsewhere)).await;
    assert!(created.is_err(), "{created:?}");
    assert_eq!(only(f).await, there);
    assert_eq!(observe(f).await.leftovers, listed);
}

pub(crate) async fn preparing_twice_is_fine(f: &dyn Fixture) {
    for _ in 0..2 {
        let silent = Progress::silent();
        f.backend().prepare(f.scope(), &machine(f, ada()), &silent).await.expect("preparing");
        let seen = observe(f).await;
        assert!(seen.instances.is_empty(), "preparing makes no machine");
    }
}

pub(crate) async fn tars_and_folders_are_images_too(f: &dyn Fixture) {
    let imports = f.imports();
    assert_eq!(imports.len(), 2, "a tar and a folder");
    for (image, name) in imports.into_iter().zip(["tar", "folder"]) {
        let digest = image.digest();
        assert!(digest.is_some());
        let spec = MachineSpec { image, ..machine(f, named(name)) };
        let machine = start(f, &create(f, &spec).await).await;
        assert_eq!(machine.image, digest);
        let seen = observe(f).await;
        let seen = seen.instances.iter().find(|i| i.id == machine.id).expect("it is observed");
        assert_eq!(seen.image, digest);
        let identity = f.backend().identity(f.scope(), &machine).await.expect("it runs");
        assert_eq!((identity.uid, identity.home.as_str()), (1000, "/home/node"));
        assert_eq!(exec(f, &machine, &["cat", "/etc/passwd"], "").await.code, 0);
    }
}

pub(crate) async fn an_import_goes_when_nothing_stands_on_it(f: &dyn Fixture) {
    for image in f.imports() {
        let digest = image.digest();
        let spec = MachineSpec { image, ..machine(f, ada()) };
        let machine = create(f, &spec).await;
        let seen = observe(f).await.leftovers;
        let found = seen.iter().find(|l| l.kind == LeftoverKind::Image && l.digest == digest);
        let leftover = found.expect("an import of ours is listed").clone();
        f.backend().prune(f.scope(), &leftover).await.expect("pruning what is in use");
        assert_eq!(only(f).await.id, machine.id);
        let used = start(f, &machine).await;
        assert_eq!(exec(f, &used, &["true"], "").await.code, 0);
        assert!(observe(f).await.leftovers.contains(&leftover), "it is in use, so it stays");
        f.backend().teardown(f.scope(), &machine).await.expect("tearing down");
        for _ in 0..2 {
            f.backend().prune(f.scope(), &leftover).await.expect("pruning");
            assert_eq!(observe(f).await.leftovers, []);
        }
        let again = create(f, &spec).await;
        assert_eq!(only(f).await.id, again.id, "it is imported anew");
        f.backend().teardown(f.scope(), &again).await.expect("tearing down");
        for leftover in observe(f).await.leftovers {
            f.backend().prune(f.scope(), &leftover).await.expect("pruning");
        }
    }
}
