"""Prints the kernel functions that executed most instructions: kernel-profile.py VMLINUX COUNTS (see benches/kernel -p)."""
import bisect
import collections
import subprocess
import sys

TOP = 60
vmlinux, counts = sys.argv[1:3]
lines = subprocess.run(["nm", vmlinux], capture_output=True, text=True, check=True).stdout.splitlines()
symbols = sorted((int(f[0], 16), f[2]) for f in map(str.split, lines) if len(f) == 3 and f[1] in "tTwW")
if not symbols:
    sys.exit("kernel-profile.py: this vmlinux is stripped; kernel/build --keep FILE keeps one that is not")
addresses = [address for address, _ in symbols]
executed = collections.Counter()
with open(counts, encoding="ascii") as file:
    for line in file:
        address, count = int(line.split()[0], 16), int(line.split()[1])
        at = bisect.bisect_right(addresses, address) - 1
        executed[symbols[at][1] if at >= 0 else "(before the kernel is mapped)"] += count
total = sum(executed.values())
for name, count in executed.most_common(TOP):
    print(f"{count / 1e6:9.2f} M {100 * count / total:5.1f} % {name}")
