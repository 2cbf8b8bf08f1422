"""The Xen test bench; `ci/xen` is its entry, docs/xen-bench.md its description."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cases  # noqa: F401: fills the suite
import images
import program
from bench import Bench
from machine import Machine
from shell import shell
from storage import Storage
from suite import CASES, Report, run_cases

SMOKE = ["pv-roundtrip"]
KEPT_LOGS = 10
RESULTS = program.ROOT / "results" / "xen"
RECORD = """# The whole bench, run

`ci/xen full` on {day}, {cpus} processors, software emulation, {disks}, program `{program}`: {total:.0f} minutes, of
which {before:.1f} for packages, disks and the program, {cases:.1f} for the boot and the cases. Seconds of a case are in
brackets; they are the emulation's.

```text
{lines}
```
"""


def main(words: list[str]) -> int:
    # Every way out passes the context managers, which power off.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    match words:
        case ["build"]:
            images.images()
            return 0
        case ["program"]:
            program.build()
            return 0
        case ["list"]:
            print("\n".join(CASES))
            return 0
        case ["shell"]:
            return with_bench(Path(os.environ.get("COMIO_XEN_PROGRAM", "")), shell)
        case ["smoke"]:
            names = SMOKE
        case ["full"]:
            names = list(CASES)
        case names if names and all(name in CASES for name in names):
            pass
        case _:
            print(f"usage: ci/xen build|smoke|full|shell|list|CASE…; cases are {' '.join(CASES)}", file=sys.stderr)
            return 2
    payload = program.program()
    begin = time.time()
    report = with_bench(payload, lambda bench: run_cases(bench, names))
    if words == ["full"]:
        write_record(report, payload, begin)
    return 1 if report.failed else 0


def write_record(report: Report, payload: Path, begin: float) -> None:
    """Keeps what a run of all cases said and how long it took, from the command's start."""
    end = time.time()
    first = float(os.environ.get("COMIO_XEN_BEGAN") or begin)
    anew = images.images().stat().st_mtime >= first
    disks = "dom0's disk built anew from Debian packages" if anew else "dom0's disk from the cache"
    text = RECORD.format(
        day=time.strftime("%Y-%m-%d", time.gmtime(first)), cpus=os.cpu_count(), disks=disks, program=payload.name,
        total=(end - first) / 60, before=(begin - first) / 60, cases=(end - begin) / 60, lines="\n".join(report.lines),
    )  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "full.md").write_text(text)


def with_bench(payload: Path, use):
    """Boots, uses the bench, powers off; the logs stay."""
    begin = time.monotonic()
    logs = log_directory()
    # The bench's own /run: it goes with the namespace, whatever happens; rpcbind's socket is there too.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    work = Path("/run/xen-bench")
    with (
        Storage(work / "storage", logs) as storage,
        Machine(images.images(), work / "boot", logs, payload) as machine,
    ):
        try:
            say(f"booted after {machine.wait_until_ready():.0f} s; logs in {logs}")
            if payload.is_file():
                program.install(machine)
            result = use(Bench(machine, storage, logs))
        except KeyboardInterrupt:
            say("interrupted; powering off")
            sys.exit(130)
    say(f"powered off after {time.monotonic() - begin:.0f} s; logs in {logs}")
    return result


def log_directory() -> Path:
    """A new directory for this run's logs, in `COMIO_XEN_LOGS` or `target/xen-logs`; the newest few are kept."""
    top = Path(os.environ.get("COMIO_XEN_LOGS") or program.ROOT / "target" / "xen-logs")
    top.mkdir(parents=True, exist_ok=True)
    older = sorted(filter(Path.is_dir, top.iterdir()), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in older[KEPT_LOGS:]:
        shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=top))


def say(text: str) -> None:
    print(f"xen bench: {text}", file=sys.stderr, flush=True)


sys.exit(main(sys.argv[1:]))
