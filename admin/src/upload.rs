//! `admin upload`: packs, checks, uploads, and waits until every worker serves it.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use openlambda_store::Uploaded;

use crate::args::Upload;
use crate::store::{self, Opened};

mod check;
mod source;

use source::Packed;

pub fn run(args: &Upload, out: &mut dyn Write) -> Result<ExitCode> {
    let opened = store::open(&args.registry)?;
    let packed = Packed::of(&args.file).with_context(|| format!("--file {}", args.file.display()))?;
    if !args.no_check {
        for note in check::run(packed.unpacked.clone(), &opened.python)? {
            let _ = writeln!(io::stderr(), "admin: {note}");
        }
    }
    let handler = &args.handler.handler;
    let uploaded = send(&opened, args, &packed)?;
    let revision = &uploaded.revision;
    let again = if uploaded.is_new { "" } else { ", as before" };
    let _ = writeln!(
        out,
        "{}: revision {}{again}, {}, {} bytes, in {}",
        handler.as_str(),
        revision.number,
        revision.digest,
        revision.bytes,
        opened.store.place()
    );
    opened.serve(handler, revision, args.no_wait, out)
}

fn send(opened: &Opened, args: &Upload, packed: &Packed) -> Result<Uploaded> {
    let bar = progress(packed.bytes);
    let mut arrived = |bytes| bar.set_position(bytes);
    let handler = &args.handler.handler;
    let uploaded = opened.wait(opened.store.upload(handler, &packed.archive, &packed.digest, &mut arrived));
    bar.finish_and_clear();
    Ok(uploaded?)
}

/// Shown on a terminal only.
fn progress(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar
}
