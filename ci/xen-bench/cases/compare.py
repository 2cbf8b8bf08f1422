"""`comio checkpoint` and `comio restore` beside stock `xl save -c` and `xl restore`, over the same server."""

import json
import os
from pathlib import Path
from statistics import median

from bench import Bench, expect
from guests import MEMORY_MIB, Guest
from storage import HOST, MOUNT_PORT, NFS_PORT
from suite import case

ROUNDS = int(os.environ.get("COMIO_XEN_ROUNDS", "3"))
RESULTS = Path(__file__).resolve().parents[3] / "results" / "xen"
MOUNT = "/mnt/images"
FIGURES = {
    "save_s": "time of the save",
    "downtime_s": "downtime of the guest",
    "save_cpu_s": "CPU of dom0, save",
    "bytes": "bytes on the server",
    "restore_s": "time of the restore",
    "restore_cpu_s": "CPU of dom0, restore",
}
TEXT = f"""# comio beside stock xl, on real Xen

Made by `ci/xen compare-stock`: {{versions}}, guests of {MEMORY_MIB} MiB shortly after their start, one nfs-ganesha whose
files are in memory. Stock: `xl save -c` to a file on a kernel NFS mount (version 3, its defaults), `xl restore` of it.
comio: `comio checkpoint` to an nfs:// URL, `comio restore --force` of it. Each in turn on the same guest; medians of
{{rounds}} rounds. Downtime is the longest time in which the guest answered no ping.

**All of it ran in software emulation on one emulated core.** The emulated CPU is ten to twenty times slower than a real
one, while the server and the network run at the host's full speed. So absolute times mean nothing, and ratios of times
show comio's work far larger, and the transfer that it saves far cheaper, than hardware does. Bytes are as on hardware.

"""


@case("compare-stock")
def compare_stock(bench: Bench) -> str:
    options = f"vers=3,nolock,proto=tcp,port={NFS_PORT},mountproto=tcp,mountport={MOUNT_PORT}"
    bench.machine.run(f"mkdir -p {MOUNT} && mount -t nfs -o {options} {HOST}:/images {MOUNT}")
    try:
        measured = {kind: measure_guest(bench, bench.guest(kind)) for kind in ("pv", "pvh")}
    finally:
        bench.machine.run(f"umount -l {MOUNT}", check=False)
    write_results(bench, measured)
    return "; ".join(f"{kind} {summary(rounds)}" for kind, rounds in measured.items())


def measure_guest(bench: Bench, guest: Guest) -> dict[str, list[dict]]:
    """The figures of all rounds, for both tools."""
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    stock = f"{MOUNT}/{guest.name}.xl"
    tools = {
        "stock": (f"xl save -c {guest.name} {stock}", f"xl restore {stock}", f"{guest.name}.xl"),
        "comio": (
            bench.command("checkpoint", guest.name, url),
            bench.command("restore", "--force", url),
            f"{guest.name}.comio",
        ),
    }
    rounds = {tool: [] for tool in tools}
    for number in range(ROUNDS):
        order = list(tools) if number % 2 == 0 else list(reversed(tools))
        for tool in order:
            rounds[tool].append(measure_round(bench, guest, *tools[tool]))
            problem = guest.problem(before)
            expect(problem is None, f"{tool}, round {number + 1}: {problem}")
    return rounds


def measure_round(bench: Bench, guest: Guest, save: str, restore: str, name: str) -> dict:
    silence = bench.machine.start(f"echo $$ >/run/silence.pid; exec /bench/silence {guest.address}")
    try:
        save_s, save_cpu_s = measure(bench, save)
        expect(guest.ask() is not None, "the guest does not answer after its checkpoint")
    finally:
        bench.machine.run("kill $(cat /run/silence.pid)", check=False)
    downtime = float(bench.end(silence)[1])
    file = bench.storage.path("images") / name
    size = file.stat().st_size
    bench.machine.run(f"xl destroy {guest.name}")
    restore_s, restore_cpu_s = measure(bench, restore)
    return {
        "save_s": save_s,
        "downtime_s": downtime,
        "save_cpu_s": save_cpu_s,
        "bytes": size,
        "restore_s": restore_s,
        "restore_cpu_s": restore_cpu_s,
    }


def measure(bench: Bench, command: str) -> tuple[float, float]:
    """Seconds and CPU seconds of dom0."""
    seconds, cpu = bench.machine.out(f"/bench/measure {command}").splitlines()[-1].split()
    return float(seconds), float(cpu)


def ratios(rounds: dict[str, list[dict]]) -> dict[str, float]:
    """comio's median over stock's."""
    return {
        figure: median(one[figure] for one in rounds["comio"]) / median(one[figure] for one in rounds["stock"])
        for figure in FIGURES
    }


def summary(rounds: dict[str, list[dict]]) -> str:
    named = ratios(rounds)
    return ", ".join(f"{figure.removesuffix('_s')} x{named[figure]:.2f}" for figure in FIGURES)


def write_results(bench: Bench, measured: dict[str, dict[str, list[dict]]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    versions = bench.machine.out("echo Xen $(xl info | sed -n 's/^xen_version *: //p'), Linux $(uname -r)")
    raw = {"versions": versions, "memory_mib": MEMORY_MIB, "rounds": measured}
    (RESULTS / "compare-stock.json").write_text(json.dumps(raw, indent=1) + "\n")
    text = TEXT.format(versions=versions, rounds=ROUNDS)
    text += f"| comio ÷ stock | {' | '.join(measured)} |\n|---|{'---|' * len(measured)}\n"
    for figure, meaning in FIGURES.items():
        cells = [f"{ratios(rounds)[figure]:.2f}" for rounds in measured.values()]
        text += f"| {meaning} | {' | '.join(cells)} |\n"
    (RESULTS / "compare-stock.md").write_text(text)
