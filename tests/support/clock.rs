//! A library to be preloaded: the time of day is ahead by as many seconds as /var/tmp/ahead says. So
//! days pass for a program while a test takes seconds.
#![allow(clippy::missing_safety_doc, reason = "the C library's own functions")]

use std::ffi::{c_int, c_long, c_void};

const CLOCK_GETTIME: c_long = if cfg!(target_arch = "x86_64") { 228 } else { 113 };
const REALTIME: c_int = 0;
const REALTIME_COARSE: c_int = 5;

#[repr(C)]
pub struct Spec {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
pub struct Value {
    seconds: i64,
    microseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn ahead() -> i64 {
    let text = std::fs::read_to_string("/var/tmp/ahead").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, spec: *mut Spec) -> c_int {
    let ended = unsafe { syscall(CLOCK_GETTIME, clock, spec) } as c_int;
    if ended == 0 && (clock == REALTIME || clock == REALTIME_COARSE) {
        unsafe { (*spec).seconds += ahead() };
    }
    ended
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(value: *mut Value, _zone: *mut c_void) -> c_int {
    let mut now = Spec { seconds: 0, nanoseconds: 0 };
    let ended = unsafe { clock_gettime(REALTIME, &raw mut now) };
    if !value.is_null() {
        unsafe {
            (*value).seconds = now.seconds;
            (*value).microseconds = now.nanoseconds / 1000;
        }
    }
    ended
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(into: *mut i64) -> i64 {
    let mut now = Spec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(REALTIME, &raw mut now) };
    if !into.is_null() {
        unsafe { *into = now.seconds };
    }
    now.seconds
}
