"""A booted bench to try things in by hand."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from bench import Bench

HELP = """
dom0 CMD…              runs a command in dom0 (a shell without one)
put FILE TARGET        copies a file into dom0
dom0 /bench/guest NAME pv|pvh NUMBER [MEMORY_MIB]      starts a guest, address 10.9.0.NUMBER
dom0 busybox wget -qO- http://10.9.0.NUMBER/cgi-bin/status?hashes      asks how it is
$IMAGES                {images}
$EXPORT                {export}
"""


def shell(bench: Bench) -> int:
    """Runs the user's shell, or the script from standard input, and returns its status."""
    storage = bench.storage
    tools = bench.logs / "bin"
    tools.mkdir()
    ssh = shlex.join(bench.machine.ssh())
    write_tool(tools / "dom0", f'exec {ssh} "$@"')
    write_tool(tools / "put", f"""{ssh} "cat >'$2' && chmod 755 '$2'" <"$1\"""")
    images = storage.url("NAME.comio")
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "IMAGES": images,
        "EXPORT": str(storage.path("images")),
        "PS1": "xen-bench# ",
    }
    print(HELP.format(images=images, export=storage.path("images")), file=sys.stderr, flush=True)
    return subprocess.run(["bash", "--norc"] if sys.stdin.isatty() else ["sh"], env=environment).returncode


def write_tool(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
