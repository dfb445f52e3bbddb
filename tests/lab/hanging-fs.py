#!/usr/bin/env python3
"""A file system that stops answering, as one on another machine does whose machine is gone.

    tests/lab/hanging-fs.py FOLDER FLAG

Mounts itself on FOLDER, with one file in it, and serves until it is unmounted or killed. While FLAG exists it does nothing.
(It does not even take requests: Linux would let no process go, not even a killed one, that waits for an answer to a
request which was taken.) Prints a line once it is mounted. Needs the right to mount.
"""
import ctypes, os, select, struct, sys, time

folder, flag = (os.fsencode(path) for path in sys.argv[1:3])
CONTENTS = b"contents"
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 20, 25, 26, 27, 28, 29, 36, 42
ENOENT, ENOSYS = 2, 38


def attr(node):
    mode, size = (0o040755, 0) if node == 1 else (0o100644, len(CONTENTS))
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node, body):
    """The error, and the contents of the answer."""
    if opcode == INIT:
        return 0, struct.pack("<4I2H2I2H8I", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 32, 0, *[0] * 8)
    if opcode == LOOKUP:
        return (0, struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attr(2)) if body == b"file\0" else (ENOENT, b"")
    if opcode in (GETATTR, SETATTR):
        return 0, struct.pack("<Q2I", 0, 0, 0) + attr(node)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("<Q2I", 1, 0, 0)
    if opcode == READ:
        return 0, CONTENTS
    if opcode == WRITE:
        return 0, struct.pack("<2I", struct.unpack_from("<I", body, 16)[0], 0)
    if opcode == STATFS:
        return 0, struct.pack("<5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
    if opcode in (FSYNC, FLUSH, READDIR, RELEASE, RELEASEDIR):
        return 0, b""
    return ENOSYS, b""


device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"hanging", folder, b"fuse.hanging", 0, options) != 0:
    sys.exit(f"mounting: {os.strerror(ctypes.get_errno())}")
print("mounted", flush=True)
while True:
    if os.path.exists(flag) or not select.select([device], [], [], 0.05)[0]:
        time.sleep(0.01)
        continue
    try:
        request = os.read(device, (1 << 17) + 4096)
    except OSError as error:
        if error.errno == ENOENT:
            continue
        break
    _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    if opcode not in (FORGET, INTERRUPT, BATCH_FORGET):
        error, contents = answer(opcode, node, request[40:])
        os.write(device, struct.pack("<IiQ", 16 + len(contents), -error, unique) + contents)
