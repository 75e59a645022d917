# Every call that can set a mode, each with set-id bits and, for a control, without. Says what is wrong.
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
w = sys.argv[1] if len(sys.argv) > 1 else "/workspace"
os.umask(0)
def call(nr, *a):
    a = [ctypes.c_long(x) if isinstance(x, int) else ctypes.c_char_p(os.fsencode(x)) for x in a]
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(nr), *a)
    return r, ctypes.get_errno()
n = 0
def new():
    global n
    n += 1
    return f"{w}/f{os.getpid()}-{n}"
def file():
    p = new(); open(p, "w").close(); return p
def opened(p): return os.open(p, os.O_RDONLY)
CREAT, TMPFILE, X = os.O_CREAT, os.O_TMPFILE, 0o755
HIGH = 0x5a5a << 32
calls = {
  "chmod": lambda m: call(90, file(), m),
  "chmod, high bits": lambda m: call(90, file(), m | HIGH),
  "chmod of a folder": lambda m: (lambda p: (os.mkdir(p), call(90, p, m))[1])(new()),
  "fchmod": lambda m: call(91, opened(file()), m),
  "fchmodat": lambda m: call(268, -100, file(), m),
  "fchmodat2": lambda m: call(452, -100, file(), m, 0),
  "creat": lambda m: call(85, new(), m),
  "open": lambda m: call(2, new(), CREAT | os.O_WRONLY, m),
  "open, high bits": lambda m: call(2, new(), CREAT | os.O_WRONLY | HIGH, m | HIGH),
  "open, exclusive": lambda m: call(2, new(), CREAT | os.O_EXCL | os.O_RDWR, m),
  "open a nameless file": lambda m: call(2, w, TMPFILE | os.O_RDWR, m),
  "openat": lambda m: call(257, -100, new(), CREAT | os.O_WRONLY, m),
  "openat a nameless file": lambda m: call(257, -100, w, TMPFILE | os.O_RDWR, m),
  "mkdir": lambda m: call(83, new(), m),
  "mkdirat": lambda m: call(258, -100, new(), m),
  "mknod": lambda m: call(133, new(), 0o100000 | m, 0),
  "mknodat": lambda m: call(259, -100, new(), 0o100000 | m, 0),
  "a fifo": lambda m: call(133, new(), 0o010000 | m, 0),
}
wrong = []
for name, make in calls.items():
    for bits in (0o4000, 0o2000, 0o6000):
        r, e = make(X | bits)
        if r >= 0 or e != 1: wrong.append(f"{name} {oct(bits)}: {r} errno {e}")
    r, e = make(X)
    # A kernel older than 6.6 has no fchmodat2.
    if r < 0 and not (name == "fchmodat2" and e == 38): wrong.append(f"{name} plain: errno {e}")
# Whatever the mode says, the sticky bit is no rights of anybody's.
r, e = call(90, file(), 0o1755)
if r < 0: wrong.append(f"sticky: errno {e}")
# Its mode is in memory: the call does not exist, and nor does a ring that could make it.
how = (ctypes.c_uint64 * 3)(CREAT | os.O_WRONLY, 0o4755, 0)
ctypes.set_errno(0)
r = libc.syscall(437, -100, os.fsencode(new()), ctypes.byref(how), 24)
if r >= 0 or ctypes.get_errno() != 38: wrong.append(f"openat2: {r} {ctypes.get_errno()}")
ring = (ctypes.c_uint8 * 120)()
if libc.syscall(425, 1, ctypes.byref(ring)) >= 0: wrong.append("io_uring_setup")
# Without a making the mode is whatever the register holds.
r, e = call(257, -100, w, os.O_RDONLY, 0o6777)
if r < 0: wrong.append(f"an opening: errno {e}")
# The ABIs beside it, where there are any: whoever started this looks at what has come to be.
x32 = 0x40000000
call(x32 + 90, file(), 0o6755)
call(x32 + 257, -100, new(), CREAT | os.O_WRONLY, 0o6755)
import mmap
for nr, second, third in ((15, 0o6755, 0), (94, 0o6755, 0), (5, CREAT | os.O_WRONLY, 0o6755)):
    if os.fork() == 0:
        page = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        path = os.fsencode(new() if nr == 5 else file())
        first = at + 4096 if nr != 94 else opened(path)
        le = lambda n: n.to_bytes(4, "little")
        # push rbx; eax, ebx, ecx, edx = …; int 0x80; pop rbx; ret
        page.write(b"\x53\xb8" + le(nr) + b"\xbb" + le(first) + b"\xb9" + le(second) + b"\xba" + le(third)
                   + b"\xcd\x80\x5b\xc3")
        page.seek(4096); page.write(path + b"\0")
        ctypes.CFUNCTYPE(ctypes.c_int)(at)()
        os._exit(0)
    os.wait()
print("\n".join(wrong))
