"""The other end of tests/lab/fakenet: a namespace where every address is local and answers.

Usage: fake-internet.py LOGFILE. Prints one line once it listens. LOGFILE gets a line per request, written before the answer:
    http LOCAL-ADDRESS PORT PEER FIRST-LINE
    dns LOCAL-ADDRESS PORT PEER TYPE NAME
    echo LOCAL-ADDRESS PORT PEER LENGTH BYTES
    stream LOCAL-ADDRESS PORT PEER FIRST-BYTES
    packet PROTOCOL SOURCE DESTINATION
Bytes that are not printable are dots there; `stream` is TCP on ports 22 and 443, `packet` IPv4 that is neither TCP, UDP nor ICMP.
DNS answers A queries with 93.184.216.34, AAAA queries with 2606:2800:220:1::34, and names that tests need:
    private.test 10.0.0.5    meta.test 169.254.169.254    loop.test 127.0.0.1    a-b-c-d.ip.test a.b.c.d
and every name below them; missing.test does not exist; the names above and v4.test have no AAAA.
"""
import socket
import struct
import sys
import threading

V4, V6 = socket.AF_INET, socket.AF_INET6
IP_PKTINFO = 8
NAMES = {"private.test": "10.0.0.5", "meta.test": "169.254.169.254", "loop.test": "127.0.0.1"}
log = open(sys.argv[1], "a", buffering=1, encoding="utf-8")


def note(kind, local, peer, rest):
    log.write(f"{kind} {local[0]} {local[1]} {peer[0]} {rest}\n")


def listener(family, kind, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == V6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM:  # learn which of all addresses was asked, to answer from it
        s.setsockopt(*((socket.IPPROTO_IP, IP_PKTINFO, 1) if family == V4 else (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)))
    s.bind(("" if family == V4 else "::", port))
    if kind == socket.SOCK_STREAM:
        s.listen(1024)
    return s


def serve_stream(s, answer):
    def one(c):
        try:
            c.settimeout(10)
            answer(c)
        except OSError:
            pass
        finally:
            c.close()

    while True:
        threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()


def serve_datagrams(s, answer):
    while True:
        data, extra, _, peer = s.recvmsg(65535, 256)
        info = extra[0][2]
        if s.family == V4:
            local = socket.inet_ntop(V4, info[8:12])
            reply = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, info[8:12], bytes(4)))
        else:
            local = socket.inet_ntop(V6, info[:16])
            reply = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info[:16] + bytes(4))
        try:
            s.sendmsg([answer(data, (local, s.getsockname()[1]), peer)], [reply], 0, peer)
        except (OSError, IndexError, struct.error):
            pass


def http(c):
    line = c.recv(65536).split(b"\r\n")[0].decode("latin1")
    local = c.getsockname()
    note("http", local, c.getpeername(), line)
    body = local[0].encode() + b"\n"
    c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def printable(data):
    return "".join(chr(b) if 32 < b < 127 else "." for b in data[:2000])


def stream(c):
    note("stream", c.getsockname(), c.getpeername(), printable(c.recv(65536)))
    c.sendall(b"seen\n")


def packets():
    """Protocols that no socket above would see."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    while True:
        packet, (_, _, kind, *_) = s.recvfrom(65535)
        if kind != socket.PACKET_OUTGOING and len(packet) >= 20 and packet[9] not in (1, 6, 17):
            log.write(f"packet {packet[9]} {socket.inet_ntoa(packet[12:16])} {socket.inet_ntoa(packet[16:20])}\n")


def echo(data, local, peer):
    note("echo", local, peer, f"{len(data)} {printable(data)}")
    return data


def address(name, kind):
    """The answer for NAME: bytes, or None when it has none of this kind."""
    if kind == 28:
        v4_only = name.endswith(("v4.test", "ip.test", *NAMES))
        return None if v4_only else socket.inet_pton(V6, "2606:2800:220:1::34")
    if kind != 1:
        return None
    if name.endswith(".ip.test"):
        return socket.inet_aton(name.split(".")[-3].replace("-", "."))
    return socket.inet_aton(next((ip for tail, ip in NAMES.items() if name.endswith(tail)), "93.184.216.34"))


def dns(query, local, peer):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin1"))
        at += 1 + query[at]
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    name = ".".join(labels).lower()
    note("dns", local, peer, f"{kind} {name}")
    missing = name.endswith("missing.test")
    found = None if missing else address(name, kind)
    record = b"" if found is None else b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(found)) + found
    flags = b"\x81\x83" if missing else b"\x81\x80"
    return query[:2] + flags + struct.pack(">HHHH", 1, 1 if record else 0, 0, 0) + query[12 : at + 5] + record


def dns_stream(c):
    file = c.makefile("rb")
    while head := file.read(2):
        reply = dns(file.read(*struct.unpack(">H", head)), c.getsockname(), c.getpeername())
        c.sendall(struct.pack(">H", len(reply)) + reply)


def main():
    streams = {80: http, 8080: http, 53: dns_stream, 22: stream, 443: stream}
    datagrams = {53: dns, 7: echo, 443: echo, 8443: echo}
    threading.Thread(target=packets, daemon=True).start()
    for family in (V4, V6):
        for table, kind, serve in ((streams, socket.SOCK_STREAM, serve_stream), (datagrams, socket.SOCK_DGRAM, serve_datagrams)):
            for port, answer in table.items():
                threading.Thread(target=serve, args=(listener(family, kind, port), answer), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


main()
