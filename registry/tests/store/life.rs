//! Uploads, and what becomes of them.

use std::fs;

use openlambda_store::KEPT;

use crate::support::{name, rigs};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_fetched_rolled_back_and_deleted() {
    for rig in rigs().await {
        let store = &rig.store;
        assert_eq!(store.record(&name("h")).await.unwrap(), None);
        let one = rig.upload("h", b"one").await.unwrap();
        assert!(one.is_new && one.revision.number == 1 && one.revision.bytes == 3, "{one:?}");
        let again = rig.upload("h", b"one").await.unwrap();
        assert_eq!((again.is_new, &again.revision), (false, &one.revision));
        let two = rig.upload("h", b"two").await.unwrap();
        assert_eq!(two.revision.number, 2);

        let file = rig.fresh();
        let length = store.fetch(&two.revision.key, &two.revision.digest, &file).await.unwrap();
        assert_eq!((length, fs::read(&file).unwrap()), (3, b"two".to_vec()));

        assert_eq!(store.roll_back(&name("h"), None).await.unwrap(), one.revision);
        let record = store.record(&name("h")).await.unwrap().unwrap();
        assert_eq!((record.serving(), record.revisions.len()), (Some(&one.revision), 2));

        assert!(store.delete(&name("h")).await.unwrap());
        assert!(!store.delete(&name("h")).await.unwrap());
        assert_eq!(store.record(&name("h")).await.unwrap(), None);
        assert_eq!(rig.objects(), Vec::<String>::new(), "{}", store.place());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_tells_who_is_there_and_who_has_changed() {
    for rig in rigs().await {
        rig.upload("b", b"1").await.unwrap();
        rig.upload("a.x", b"1").await.unwrap();
        let before = rig.store.handlers().await.unwrap();
        let names: Vec<_> = before.iter().map(|one| one.name.as_str().to_owned()).collect();
        assert_eq!(names, ["a.x", "b"]);
        assert_eq!(rig.store.handlers().await.unwrap(), before);
        // A record of the same length, within the same second.
        rig.upload("b", b"2").await.unwrap();
        rig.store.roll_back(&name("b"), Some(1)).await.unwrap();
        let one = rig.store.handlers().await.unwrap();
        rig.store.roll_back(&name("b"), Some(2)).await.unwrap();
        let two = rig.store.handlers().await.unwrap();
        assert!(one[1].stamp != two[1].stamp && one[0].stamp == before[0].stamp, "{}", rig.store.place());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_leave_no_more_than_is_kept() {
    for rig in rigs().await {
        for index in 0..100 {
            rig.upload("h", format!("{index}").as_bytes()).await.unwrap();
        }
        let record = rig.store.record(&name("h")).await.unwrap().unwrap();
        assert_eq!((record.active, record.revisions.len()), (100, KEPT));
        for revision in &record.revisions {
            let file = rig.fresh();
            rig.store.fetch(&revision.key, &revision.digest, &file).await.unwrap();
        }
        let objects = rig.objects();
        let bundles = objects.iter().filter(|name| name.ends_with(".tar.gz")).count();
        assert!(bundles == KEPT || rig.files.is_none(), "{objects:?}");
        // With what the embedded server keeps beside each: its attributes and its tag.
        assert!(objects.len() <= 3 * (KEPT + 1), "{objects:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_uploads_at_once_each_is_a_revision_and_the_last_one_serves() {
    for rig in rigs().await {
        let texts: Vec<_> = (0..8).map(|index| format!("upload {index}")).collect();
        let uploads = texts.iter().map(|text| rig.upload("h", text.as_bytes()));
        let mut done: Vec<_> =
            futures::future::join_all(uploads).await.into_iter().map(Result::unwrap).collect();
        done.sort_by_key(|one| one.revision.number);
        let record = rig.store.record(&name("h")).await.unwrap().unwrap();
        let revisions: Vec<_> = done.into_iter().map(|one| one.revision).collect();
        if rig.files.is_some() {
            assert_eq!(record.revisions, revisions, "{}", rig.store.place());
        }
        // versitygw looks at a condition and writes in two steps: of two at once one may not be in the record.
        assert!(record.revisions.iter().all(|one| revisions.contains(one)), "{record:?}");
        assert_eq!(record.serving(), record.revisions.last());
        for revision in &record.revisions {
            rig.store.fetch(&revision.key, &revision.digest, &rig.fresh()).await.unwrap();
        }
    }
}

/// Beyond what goes into one request.
#[tokio::test(flavor = "multi_thread")]
async fn large_bundles_go_in_parts() {
    let contents: Vec<u8> =
        (0..20_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for rig in rigs().await {
        let large = rig.upload("h", &contents).await.unwrap().revision;
        let file = rig.fresh();
        rig.store.fetch(&large.key, &large.digest, &file).await.unwrap();
        assert!(fs::read(&file).unwrap() == contents);
        rig.store.delete(&name("h")).await.unwrap();
        assert_eq!(rig.objects(), Vec::<String>::new());
    }
}
