"""The Xen test bench; `ci/xen` is its entry, docs/xen-bench.md its description."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import images
from machine import Machine
from shell import shell
from storage import Storage


def main(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if words == ["build"]:
        images.images()
        return 0
    logs = Path(tempfile.mkdtemp(prefix="xen-bench-"))
    with tempfile.TemporaryDirectory(prefix="xen-bench-nfs-") as directory, Storage(Path(directory)) as storage:
        with Machine(images.images(), logs) as machine:
            print(f"booted after {machine.wait_until_ready():.1f} s", file=sys.stderr, flush=True)
            return shell(machine, storage, logs)


sys.exit(main(sys.argv[1:]))
