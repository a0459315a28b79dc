//! Archives as nobody should send them.

use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::tree::MAX_ENTRIES;

type Archive = tar::Builder<GzEncoder<Vec<u8>>>;

fn archive(fill: impl FnOnce(&mut Archive)) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    fill(&mut builder);
    builder.into_inner().unwrap().finish().unwrap()
}

fn header(kind: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header
}

/// With a name and a checksum.
fn named(kind: EntryType, size: u64) -> tar::Header {
    let mut header = header(kind, size);
    header.set_path("short").unwrap();
    header.set_cksum();
    header
}

fn add(builder: &mut Archive, name: &str, text: &str) {
    let mut header = header(EntryType::Regular, text.len() as u64);
    builder.append_data(&mut header, name, text.as_bytes()).unwrap();
}

fn fails(bytes: &[u8], part: &str) {
    let work = tempfile::tempdir().unwrap();
    let error = unpack(bytes, work.path()).unwrap_err();
    assert!(!error.is_ours() && error.to_string().contains(part), "{part} is not in {error}");
}

#[test]
fn archives_are_unpacked() {
    let work = tempfile::tempdir().unwrap();
    let bytes = archive(|builder| {
        builder.append(&named(EntryType::Directory, 0), io::empty()).unwrap();
        add(builder, "./lambda_func.py", "1");
        add(builder, "bin/tool", "2");
        add(builder, "__pycache__/x.pyc", "3");
        builder.append_link(&mut header(EntryType::Symlink, 0), "bin/link", "../lambda_func.py").unwrap();
    });
    unpack(&bytes[..], work.path()).unwrap();
    assert!(!work.path().join("__pycache__").exists());
    assert_eq!(fs::read_to_string(work.path().join("bin/link")).unwrap(), "1");
}

#[test]
fn what_is_no_file_and_what_leads_out_is_refused() {
    for kind in [EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let bytes = archive(|builder| {
            builder.append_link(&mut header(kind, 0), "link", "/etc/passwd").unwrap();
        });
        fails(&bytes, "use files only");
    }
    for target in ["/etc/passwd", "../x", "a/../../x"] {
        let bytes = archive(|builder| {
            builder.append_link(&mut header(EntryType::Symlink, 0), "link", target).unwrap();
        });
        fails(&bytes, "outside the bundle");
    }
    for name in [&b"../x"[..], b"/x"] {
        let bytes = archive(|builder| {
            let mut header = header(EntryType::Regular, 1);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.set_cksum();
            builder.append(&header, &b"1"[..]).unwrap();
        });
        fails(&bytes, "leads out");
    }
}

#[test]
fn set_id_bits_are_refused() {
    for mode in [0o4755, 0o2755] {
        let bytes = archive(|builder| {
            let mut header = header(EntryType::Regular, 1);
            header.set_mode(mode);
            builder.append_data(&mut header, "tool", &b"1"[..]).unwrap();
        });
        fails(&bytes, "tool is set-user-id");
    }
}

#[test]
fn names_that_differ_in_case_only_are_refused() {
    let bytes = archive(|builder| {
        add(builder, "Util.py", "1");
        add(builder, "util.py", "2");
    });
    fails(&bytes, "differ only in case");
}

/// At each byte, as an upload that breaks off leaves it.
#[test]
fn what_is_cut_off_is_refused() {
    let bytes = archive(|builder| {
        add(builder, "lambda_func.py", "def handler(event):\n    return 1\n");
        add(builder, "data", &"x".repeat(3000));
    });
    for length in 0..bytes.len() {
        fails(&bytes[..length], "cannot be ");
    }
    let work = tempfile::tempdir().unwrap();
    unpack(&bytes[..], work.path()).unwrap();
}

#[test]
fn what_is_no_archive_is_refused() {
    fails(b"def handler(event): pass\n", "cannot be unpacked");
    fails(b"", "cannot be unpacked");
    let mut bytes = archive(|builder| add(builder, "a", &"x".repeat(100_000)));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fails(&bytes, "");
}

#[test]
fn too_much_is_refused_before_it_is_unpacked() {
    let gib = 1 << 30;
    // The header is enough: there is nothing behind it.
    let bytes = archive(|builder| {
        let mut header = named(EntryType::Regular, gib);
        header.set_cksum();
        builder.get_mut().write_all(header.as_bytes()).unwrap();
    });
    fails(&bytes, "short has 1024 MiB, and all files together may have 256 MiB");

    let many = archive(|builder| {
        for index in 0..=MAX_ENTRIES {
            add(builder, &format!("f{index}"), "");
        }
    });
    fails(&many, "more than 10000 files");
}

/// 300 MiB that pack into 300 KiB, in files that are each small enough.
#[test]
fn bombs_are_refused() {
    let bytes = archive(|builder| {
        for index in 0..5 {
            let size = 60 << 20;
            let mut header = header(EntryType::Regular, size);
            builder.append_data(&mut header, format!("f{index}"), io::repeat(0).take(size)).unwrap();
        }
    });
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());
    fails(&bytes, "make it smaller");
}

/// A record of a pax header: its own length stands in front.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while format!("{length}{rest}").len() != length {
        length = format!("{length}{rest}").len();
    }
    format!("{length}{rest}").into_bytes()
}

/// A name that does not fit into an entry, as GNU and as POSIX write it.
#[test]
fn long_names_are_taken() {
    let long = format!("{}/lambda_data.txt", ["directory"; 30].join("/"));
    let other = format!("{long}.pax");
    let work = tempfile::tempdir().unwrap();
    let bytes = archive(|builder| {
        add(builder, &long, "1");
        builder.append(&named(EntryType::XGlobalHeader, 6), &b"6 a=b\n"[..]).unwrap();
        let records = [record("mtime", "1.5"), record("path", &other)].concat();
        builder.append(&named(EntryType::XHeader, records.len() as u64), &records[..]).unwrap();
        builder.append(&named(EntryType::Regular, 1), &b"2"[..]).unwrap();
        add(builder, "lambda_func.py", "3");
    });
    unpack(&bytes[..], work.path()).unwrap();
    for (name, text) in [(&long[..], "1"), (&other, "2"), ("lambda_func.py", "3")] {
        assert_eq!(fs::read_to_string(work.path().join(name)).unwrap(), text);
    }
}

/// Half a GiB of a name packs into half a MiB; it must not be unpacked into memory.
#[test]
fn endless_names_are_refused() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let size = 4 << 20;
        let bytes = archive(|builder| {
            builder.append(&named(kind, size), io::repeat(b'a').take(size)).unwrap();
        });
        fails(&bytes, "is over 16384 bytes");
    }
    // A size of its own would let one entry hide in another.
    let bytes = archive(|builder| {
        let size = record("size", "1");
        builder.append(&named(EntryType::XHeader, size.len() as u64), &size[..]).unwrap();
        builder.append(&named(EntryType::Regular, 600), io::repeat(0).take(600)).unwrap();
    });
    fails(&bytes, "too large");
}
