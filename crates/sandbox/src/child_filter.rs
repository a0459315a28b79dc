//! The second seccomp filter of a sandbox: forbids what setting it up needed, on top of the Zygote's allow-list.
//!
//! Assembled by hand, as three actions are wanted in one short program: `clone3` answers `ENOSYS`, so that the C library falls back to
//! `clone`, whose flags a filter can see; `clone` with a namespace flag and the listed calls answer `EPERM`.

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const FIRST_ARGUMENT_LOW: u32 = 16;

const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | 0x80/* CLONE_NEWTIME */) as u32;

/// What the Zygote's list allows for the sake of [`crate::child`] alone.
pub(crate) const SETUP_ONLY: [libc::c_long; 9] = [
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_umount2,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_sethostname,
    libc::SYS_seccomp,
    libc::SYS_capset,
];

/// The program.
pub(crate) fn assemble() -> Vec<libc::sock_filter> {
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let errno = |number: i32| libc::SECCOMP_RET_ERRNO | number as u32;
    let mut program = vec![
        op(LOAD, NUMBER, 0, 0),
        op(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1),
        op(RETURN, errno(libc::ENOSYS), 0, 0),
    ];
    for call in SETUP_ONLY {
        program.push(op(JUMP_EQUAL, call as u32, 0, 1));
        program.push(op(RETURN, errno(libc::EPERM), 0, 0));
    }
    program.extend([
        op(JUMP_EQUAL, libc::SYS_clone as u32, 0, 3),
        op(LOAD, FIRST_ARGUMENT_LOW, 0, 0),
        op(JUMP_ANY_BIT, NAMESPACES, 0, 1),
        op(RETURN, errno(libc::EPERM), 0, 0),
        op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]);
    program
}
