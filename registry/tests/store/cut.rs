//! Connections that are cut: a proxy lets so many bytes of a client through and then closes everything.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openlambda_bundle::Digest;
use openlambda_config::registry::{Place, S3Config};
use openlambda_store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Rig, name};

/// What is uploaded: some bytes more than a request's head.
const BUNDLE: usize = 3000;
/// Between two places where the connection is cut.
const STEP: usize = 251;

/// A proxy to a server, and how many bytes of clients it has let through.
struct Cutter {
    address: SocketAddr,
    passed: Arc<AtomicUsize>,
}

impl Cutter {
    async fn start(server: String, limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&passed);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(stream, server.clone(), Arc::clone(&counted), limit));
            }
        });
        Self { address, passed }
    }
}

/// Passes one connection on until the bytes of all of them are used up.
async fn pass(client: TcpStream, server: String, passed: Arc<AtomicUsize>, limit: usize) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let mut buffer = [0; 1024];
        loop {
            let Ok(read @ 1..) = from_client.read(&mut buffer).await else { return };
            let before = passed.fetch_add(read, Ordering::Relaxed);
            let rest = limit.saturating_sub(before).min(read);
            if to_server.write_all(&buffer[..rest]).await.is_err() || rest < read {
                return;
            }
        }
    };
    // Both ends are closed as soon as one of them is done.
    tokio::select! {
        () = up => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// The same bucket through another address.
fn through(config: &S3Config, address: SocketAddr) -> Store {
    Store::open(&Place::S3(S3Config { endpoint: Some(format!("http://{address}")), ..config.clone() }))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_at_any_byte_is_there_whole_or_not_at_all() {
    let (embedded, config) = Rig::embedded_with_config().await;
    let foreign = Rig::foreign_with_config();
    for (rig, config) in [Some((embedded, config)), foreign].into_iter().flatten() {
        let file = rig.fresh();
        fs::write(&file, vec![7_u8; BUNDLE]).unwrap();
        let digest = Digest::of_file(&file).unwrap();
        let server = config.endpoint.clone().unwrap().replace("http://", "");
        // How much there is of it, by an upload that nobody cuts.
        let whole = Cutter::start(server.clone(), usize::MAX).await;
        let uncut = through(&config, whole.address).upload(&name("uncut"), &file, &digest, &mut |_| {}).await;
        uncut.unwrap();
        let total = whole.passed.load(Ordering::Relaxed);
        assert!(total > BUNDLE, "{total}");
        let cuts = (0..=total + STEP).step_by(STEP).map(|limit| {
            let (rig, config, server, file, digest) = (&rig, &config, server.clone(), &file, &digest);
            async move {
                let handler = name(&format!("cut-{limit}"));
                let cutter = Cutter::start(server, limit).await;
                let said = through(config, cutter.address).upload(&handler, file, digest, &mut |_| {}).await;
                let record = rig.store.record(&handler).await.unwrap();
                if let Ok(said) = &said {
                    assert_eq!(record.as_ref().and_then(|record| record.serving()), Some(&said.revision));
                }
                if let Some(serving) = record.as_ref().and_then(|record| record.serving()) {
                    rig.store.fetch(&serving.key, digest, &rig.fresh()).await.unwrap();
                }
                // Whatever is left of it is in nobody's way.
                let again = rig.store.upload(&handler, file, digest, &mut |_| {}).await.unwrap();
                rig.store.fetch(&again.revision.key, digest, &rig.fresh()).await.unwrap();
                said.is_ok()
            }
        });
        let went_well = futures::future::join_all(cuts).await;
        assert!(!went_well[0] && went_well[went_well.len() - 1], "{went_well:?}");
        let failed = went_well.iter().filter(|well| !**well).count();
        assert!(failed > 10, "{failed} of {} cuts were felt, in {total} bytes", went_well.len());
    }
}
