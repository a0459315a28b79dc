//! The registry's own server: S3 over a directory, for one machine and small clusters. The protocol is `s3s`'s, the
//! files are kept by `s3s-fs`; here is what they leave open: who may come in, one bucket, one change of a record at a
//! time, and nothing left behind.

pub mod bucket;
pub mod server;
