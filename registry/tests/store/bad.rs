//! Stores that are away, refuse, or hold something else; uploads that break off.

use std::fs;
use std::path::Path;

use openlambda_bundle::Digest;
use openlambda_config::registry::{Keys, Place, Secret};
use openlambda_store::{Store, StoreError};
use openlambda_telemetry::Drain;
use tokio::sync::mpsc;

use crate::support::{Rig, keys, name, rigs, s3, serve};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_says_why() {
    let (work, drain) = (tempfile::tempdir().unwrap(), Drain::new());
    let address = serve(work.path(), &drain).await;
    let endpoint = format!("http://{address}");
    let ask = async |config| Store::open(&Place::S3(config)).unwrap().record(&name("h")).await;

    let wrong = Keys { secret: Secret::new("another-secret-key"), ..keys() };
    let error = ask(s3(&endpoint, wrong)).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Denied { .. }) && error.to_string().contains("SignatureDoesNotMatch"),
        "{error}"
    );
    let unknown = Keys { access: "somebody".into(), ..keys() };
    let error = ask(s3(&endpoint, unknown)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains("secret-key-of"), "{error}");

    let mut config = s3(&endpoint, keys());
    config.bucket = "another".into();
    let store = Store::open(&Place::S3(config)).unwrap();
    let error = store.handlers().await.unwrap_err();
    assert!(
        matches!(error, StoreError::NoBucket(_)) && error.to_string().contains("make the bucket"),
        "{error}"
    );

    drain.begin();
    let error = ask(s3("http://127.0.0.1:1", keys())).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("http://127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_another_digest_is_refused_and_removed() {
    for rig in rigs().await {
        let one = rig.upload("h", b"one").await.unwrap().revision;
        let other = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let file = rig.fresh();
        let error = rig.store.fetch(&one.key, &other, &file).await.unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }) && !error.is_passing(), "{error}");
        assert!(!file.exists());
        let error = rig.store.fetch("bundles/h/none", &other, &file).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Missing { .. }) && error.to_string().contains("bundles/h/none"),
            "{error}"
        );
        assert!(!file.exists());
        // A bundle that got lost comes back with the next upload, though its digest is the one that serves.
        if let Some(files) = &rig.files {
            let place = [files.join(&one.key), files.join("registry").join(&one.key)];
            let place = place.into_iter().find(|place| place.exists()).unwrap();
            fs::remove_file(place).unwrap();
            let again = rig.upload("h", b"one").await.unwrap();
            assert!(again.is_new && again.revision.number == 2);
            rig.store.fetch(&again.revision.key, &one.digest, &file).await.unwrap();
            rig.store.delete(&name("h")).await.unwrap();
            rig.upload("h", b"one").await.unwrap();
        }
        let error = rig.store.roll_back(&name("other"), None).await.unwrap_err();
        assert!(matches!(error, StoreError::NoHandler(_)), "{error}");
        let error = rig.store.roll_back(&name("h"), None).await.unwrap_err();
        assert!(error.to_string().contains("no revision before 1"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_is_named() {
    let rig = Rig::directory();
    rig.upload("h", b"one").await.unwrap();
    let record = rig.files.as_ref().unwrap().join("handlers/h.json");
    fs::write(&record, "{").unwrap();
    let error = rig.store.record(&name("h")).await.unwrap_err().to_string();
    assert!(error.contains("record of the handler \"h\"") && error.contains("cannot be read"), "{error}");
    fs::write(&record, "x".repeat(300 << 10)).unwrap();
    let error = rig.store.record(&name("h")).await.unwrap_err().to_string();
    assert!(error.contains("307200 bytes"), "{error}");
}

/// Given up after each of its parts, as when whoever uploads is killed: what was there stays, whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_shows_nowhere() {
    let contents = vec![7_u8; 20 << 20];
    for rig in rigs().await {
        let one = rig.upload("h", b"one").await.unwrap().revision;
        let file = rig.fresh();
        fs::write(&file, &contents).unwrap();
        let digest = Digest::of_file(&file).unwrap();
        for parts in 1..=2 {
            break_off(&rig.store, &file, &digest, parts).await;
            let record = rig.store.record(&name("h")).await.unwrap().unwrap();
            assert_eq!((record.serving(), record.revisions.len()), (Some(&one), 1));
            let names = rig.objects();
            let whole = names.iter().filter(|name| name.contains(digest.hex()) && name.ends_with(".tar.gz"));
            assert_eq!(whole.count(), 0, "{names:?}");
        }
        let two = rig.store.upload(&name("h"), &file, &digest, &mut |_| {}).await.unwrap().revision;
        rig.store.fetch(&two.key, &two.digest, &rig.fresh()).await.unwrap();
    }
}

async fn break_off(store: &Store, file: &Path, digest: &Digest, parts: usize) {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let handler = name("h");
    let mut progress = |sent: u64| heard.send(sent).unwrap();
    let upload = store.upload(&handler, file, digest, &mut progress);
    tokio::select! {
        done = upload => panic!("it was not to be done: {done:?}"),
        () = async {
            for _ in 0..parts {
                hears.recv().await.unwrap();
            }
        } => {}
    }
}
