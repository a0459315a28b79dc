//! Memory of the interpreter's objects in huge pages: a Zygote with many packages is copied faster, as its page tables are small.
//!
//! Only what a Zygote allocates while it imports is so. A child that allocated its first object in a huge page of its own would hold 2 MiB
//! for it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// A huge page.
const HUGE: usize = 2 << 20;

/// `MADV_COLLAPSE`, since Linux 6.1.
const COLLAPSE: i32 = 25;

/// Where the heap ended when the imports began.
static HEAP: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Whether new arenas come in huge pages.
static ON: AtomicBool = AtomicBool::new(false);
/// What is left of the last huge page. The interpreter's lock is held by who allocates.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// CPython's `PyObjectArenaAllocator`, the same since 3.4.
#[repr(C)]
struct ArenaAllocator {
    context: *mut c_void,
    alloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free: extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// From now on, huge pages. Without effect on an interpreter that does not have the call, which is not part of the stable ABI.
pub(crate) fn use_huge_pages() {
    HEAP.store(heap_end(), Ordering::Relaxed);
    // SAFETY: a lookup by a name that ends with a zero byte.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyObject_SetArenaAllocator".as_ptr()) };
    if symbol.is_null() {
        return;
    }
    ON.store(true, Ordering::Relaxed);
    let mut allocator = ArenaAllocator { context: std::ptr::null_mut(), alloc, free };
    // SAFETY: that is the signature of the function of this name in every CPython since 3.4.
    let set: extern "C" fn(*mut ArenaAllocator) = unsafe { std::mem::transmute(symbol) };
    set(&raw mut allocator);
}

/// Gathers what the heap has grown by since in huge pages, once: what it grows by from now on, in children too, comes in ordinary ones. An
/// older kernel leaves all as it is.
pub(crate) fn gather_heap() {
    let (start, end) = (
        HEAP.load(Ordering::Relaxed).checked_next_multiple_of(HUGE).unwrap_or(usize::MAX),
        heap_end() / HUGE * HUGE,
    );
    if start < end {
        // SAFETY: the range is within the heap, whose contents stay the same.
        unsafe { libc::madvise(start as *mut c_void, end - start, COLLAPSE) };
    }
}

fn heap_end() -> usize {
    // SAFETY: it moves nothing, it only tells.
    unsafe { libc::sbrk(0) as usize }
}

/// From now on, ordinary pages.
pub(crate) fn use_small_pages() {
    ON.store(false, Ordering::Relaxed);
}

extern "C" fn alloc(_context: *mut c_void, size: usize) -> *mut c_void {
    if !ON.load(Ordering::Relaxed) || size > HUGE {
        return map(size);
    }
    let left = LEFT.load(Ordering::Relaxed);
    if left >= size {
        let at = NEXT.load(Ordering::Relaxed);
        NEXT.store(at.wrapping_byte_add(size), Ordering::Relaxed);
        LEFT.store(left - size, Ordering::Relaxed);
        return at;
    }
    // Twice as much has an aligned huge page in it; the rest is given back.
    let whole = map(2 * HUGE);
    if whole.is_null() {
        return map(size);
    }
    let before = whole.align_offset(HUGE);
    let page = whole.wrapping_byte_add(before);
    if before > 0 {
        unmap(whole, before);
    }
    unmap(page.wrapping_byte_add(HUGE), HUGE - before);
    // SAFETY: the range was mapped above and belongs to nobody else. A failure means small pages.
    unsafe { libc::madvise(page, HUGE, libc::MADV_HUGEPAGE) };
    NEXT.store(page.wrapping_byte_add(size), Ordering::Relaxed);
    LEFT.store(HUGE - size, Ordering::Relaxed);
    page
}

extern "C" fn free(_context: *mut c_void, at: *mut c_void, size: usize) {
    unmap(at, size);
}

fn map(size: usize) -> *mut c_void {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where the kernel likes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
    if at == libc::MAP_FAILED { std::ptr::null_mut() } else { at }
}

fn unmap(at: *mut c_void, size: usize) {
    if size > 0 {
        // SAFETY: the caller has the range and gives it up.
        unsafe { libc::munmap(at, size) };
    }
}
