"""A guest that uses up what it can, and checks all the while that a connection beside it works.

Usage: hostile.py STEADY CROWD SYNS CONNECTIONS, two ports of the host's loopback and how many of each; or hostile.py trickle. Files in the current folder say how far it is.
"""
import os
import resource
import socket
import struct
import sys
import threading
import time

GATEWAY, GUEST = "100.96.0.1", "100.96.0.2"
FLAPS = 100  # a second


def done(name):
    open(name, "w").close()


def wait(name):
    while not os.path.exists(name):
        time.sleep(0.05)


def total(data):
    return sum(struct.unpack(f">{len(data) // 2}H", data))


def fold(value):
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def syns(destination, port):
    """Frames of the same SYN from one port after the other."""
    with open("/sys/class/net/eth0/address") as file:
        mine = bytes.fromhex(file.read().strip().replace(":", ""))
    addresses = socket.inet_aton(GUEST) + socket.inet_aton(destination)
    ip = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 40, 7, 0, 64, 6, 0) + addresses)
    struct.pack_into(">H", ip, 10, fold(total(ip)))
    tcp = struct.pack(">HHIIBBHHH", 0, port, 1, 0, 0x50, 2, 0xFFFF, 0, 0)
    base = total(addresses) + 6 + len(tcp) + total(tcp)
    frame = bytearray(bytes.fromhex("02766d6d0001") + mine + b"\x08\0" + ip + tcp)
    source = 0
    while True:
        source = source % 60_000 + 1
        struct.pack_into(">H", frame, 34, source)
        struct.pack_into(">H", frame, 50, fold(base + source))
        yield frame


def flood(steady, crowd, size):
    """Most are for what is not allowed; every tenth opens a connection, which the guest's kernel knows nothing of."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("eth0", 0))
    denied, allowed = syns("10.0.0.5", 443), syns(GATEWAY, crowd)
    for count in range(1, size + 1):
        frame = next(denied if count % 10 else allowed)
        while True:
            try:
                raw.send(frame)
                break
            except OSError:  # no room on the link
                time.sleep(0.001)
        if count % 5000 == 0:
            works(steady)


def works(steady):
    steady.sendall(b"ping")
    assert steady.recv(4) == b"ping"


def datagrams(port):
    """More datagram flows than there may be."""
    for _ in range(1500):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (GATEWAY, port))


def crowd_in(port, size):
    return [socket.create_connection((GATEWAY, port), 120) for _ in range(size)]


def flap(steady):
    """Services that come and go."""
    def flapper(first):
        for count in range(10 * FLAPS // 10):
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", first + count % 7))
                s.listen()
                time.sleep(0.1)

    threads = [threading.Thread(target=flapper, args=(20_000 + 10 * index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        works(steady)
        time.sleep(0.1)


def hostile(steady_port, crowd_port, syns, size):
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    steady = socket.create_connection((GATEWAY, steady_port), 120)
    works(steady)
    flood(steady, crowd_port, syns)
    datagrams(steady_port)
    works(steady)
    done("flooded")
    wait("go on")
    crowd = crowd_in(crowd_port, size)
    works(steady)
    done("crowded")
    wait("go on more")
    for s in crowd:
        s.close()
    flap(steady)
    done("flapped")
    wait("end")
    works(steady)
    print("reached the end")


def trickle():
    """Many requests that never end, a byte at a time; whole ones beside them."""
    address = socket.gethostbyname("v4.test")
    slow = [socket.create_connection((address, 80), 120) for _ in range(200)]
    begun, cut, request = time.monotonic(), set(), b"GET /slow HTTP/1.1\r\nX-Slow: " + b"x" * 200
    for byte in request:
        for s in slow:
            try:
                s.send(bytes([byte]))
            except OSError:
                cut.add(s)
        if time.monotonic() > begun + 90 or len(cut) == len(slow):
            break
        with socket.create_connection((address, 80), 120) as s:
            s.sendall(b"GET /another HTTP/1.1\r\nHost: v4.test\r\n\r\n")
            print("another", "answered" if s.recv(100) else "closed", flush=True)
        time.sleep(1)
    print(f"{len(cut)} of {len(slow)} cut")


if sys.argv[1] == "trickle":
    trickle()
else:
    hostile(*map(int, sys.argv[1:]))
