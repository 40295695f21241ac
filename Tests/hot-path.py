#!/usr/bin/env python3
"""hot-path.py PROGRAM: what the worker executes for each frame, by the machine code of a release build.

Follows every call from the worker's turn and fails where one leads to the Swift runtime (reference counts, exclusivity checks,
errors, allocation) or to the C library beyond what copies a frame and the system call that sends.
"""
import re
import subprocess
import sys

ROOT = re.compile(r"\$s9DataPlane11WorkerStateV4turn")
ALLOWED = {"send@plt", "memmove@plt"}

program = sys.argv[1]
listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "--section=.text", program],
                         check=True, capture_output=True, text=True).stdout
calls, current = {}, None
for line in listing.splitlines():
    if start := re.match(r"[0-9a-f]+ <(.+)>:$", line):
        current = start[1]
        calls[current] = []
    elif current and (target := re.search(r"\s(?:call|jmp)\s+[0-9a-f]+ <([^>+]+)>", line)):
        calls[current].append(target[1])
    elif current and re.search(r"\scall\s+\*", line):
        calls[current].append("an address that is known only at run time")

roots = [name for name in calls if ROOT.match(name)]
if len(roots) != 1:
    sys.exit(f"{program}: the worker's turn occurs {len(roots)} times; it should once, not inlined")
reached, faults = {roots[0]: None}, []
queue = list(roots)
while queue:
    name = queue.pop()
    for callee in calls.get(name, []):
        if callee in reached or callee in ALLOWED:
            continue
        if callee not in calls:
            faults.append(f"{name} calls {callee}")
        reached[callee] = name
        queue.append(callee)
for fault in faults:
    print(fault)
print(f"{len(reached)} functions are executed for frames; {len(faults)} faults")
sys.exit(1 if faults else 0)
