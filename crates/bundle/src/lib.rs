//! Bundles: a handler's code as one `.tar.gz` file.
//!
//! [`pack()`] makes one from a directory, always the same bytes of the same content; [`unpack()`] puts one into an
//! empty directory, within bounds, and refuses what could reach outside of it. [`Digest`] names its bytes.
//! [`Manifest`] is what an `ol.yaml` in it says. [`Packed`] is what somebody uploads, looked into.
//!
//! Everything here blocks, streams, and leaves it to the caller that nothing half-made is visible: write beside,
//! then rename.

mod digest;
mod error;
pub mod manifest;
mod pack;
pub mod tree;
mod unpack;
mod upload;
mod writer;

pub use digest::{Digest, InvalidDigest, Tee};
pub use error::BundleError;
pub use manifest::Manifest;
pub use pack::{pack, pack_file};
pub use unpack::{is_gzip, unpack};
pub use upload::Packed;
pub use writer::{Writer, make_directory};

/// The largest archive.
pub const MAX_ARCHIVE: u64 = 128 << 20;
/// The mode of a directory and of an executable file.
pub const DIRECTORY_MODE: u32 = 0o755;
/// The mode of a file that is not executable.
pub const FILE_MODE: u32 = 0o644;

/// The original's entry file, and its entrypoint.
pub const ORIGINAL: (&str, &str) = ("lambda_func.py", "lambda_func.handler");
/// Those of today's OpenLambda.
pub const TODAY: (&str, &str) = ("f.py", "f.f");

/// The entry file and the entrypoint of an unpacked bundle that names none: the original's, else today's.
pub fn entry(directory: &std::path::Path) -> Result<(&'static str, &'static str), BundleError> {
    let forms = [ORIGINAL, TODAY];
    let found = forms.into_iter().find(|(file, _)| directory.join(file).is_file());
    found.ok_or_else(|| {
        let there = writer::listed(directory);
        BundleError::Invalid(format!(
            "it has neither {} nor {} at its root; it has {there}",
            ORIGINAL.0, TODAY.0
        ))
    })
}
