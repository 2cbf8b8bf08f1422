"""`comio save` and `comio restore` beside stock `xl save` and `xl restore`, over the same server."""

import json
import os
import re
from pathlib import Path
from statistics import median

from bench import Bench, expect
from guests import MEMORY_MIB, Guest
from storage import HOST, MOUNT_PORT, NFS_PORT
from suite import case

ROUNDS = int(os.environ.get("COMIO_XEN_ROUNDS", "3"))
RESULTS = Path(__file__).resolve().parents[3] / "results" / "xen"
MOUNT = "/mnt/images"
# What is measured: its meaning, and how a median is written.
FIGURES = {
    "save_s": ("time of the save", "{:.1f} s"),
    "downtime_s": ("downtime of the guest", "{:.1f} s"),
    "save_cpu_s": ("CPU of dom0, save", "{:.1f} s"),
    "bytes": ("bytes on the server", "{:.0f}"),
    "restore_s": ("time of the restore", "{:.1f} s"),
    "restore_cpu_s": ("CPU of dom0, restore", "{:.1f} s"),
}
TEXT = f"""# comio beside stock xl, on real Xen

Made by `ci/xen compare-stock`: {{versions}}, guests of {MEMORY_MIB} MiB shortly after their start, one nfs-ganesha whose
files are in memory. Stock: `xl save` to a file on a kernel NFS mount (version 3, its defaults), `xl restore` of it.
comio: `comio save` to an nfs:// URL, `comio restore` of it. Each in turn on the same guest, which both destroy; medians
of {{rounds}} rounds. The restore follows the save, with dom0's file cache dropped between them, as after a restart of the
host. Downtime is the longest time in which the guest answered no ping, over both.

The two do not promise the same. comio destroys the guest when its image is durable on the server and its directory was
read back, and lets a restored guest run when every byte was checked. Stock xl never calls fsync and does not look at
what closing the file returned: the kernel's NFS client writes back at the close all the same, other file systems do not.

**All of it ran in software emulation on one emulated core.** The emulated CPU is ten to twenty times slower than a real
one, while the server and the network run at the host's full speed. So absolute times mean nothing, and ratios of times
show comio's work far larger, and the transfer that it saves far cheaper, than hardware does. Bytes are as on hardware.

"""


@case("compare-stock")
def compare_stock(bench: Bench) -> str:
    options = f"vers=3,nolock,proto=tcp,port={NFS_PORT},mountproto=tcp,mountport={MOUNT_PORT}"
    bench.machine.run(f"mkdir -p {MOUNT} && mount -t nfs -o {options} {HOST}:/images {MOUNT}")
    try:
        guests = {kind: measure_guest(bench, bench.guest(kind)) for kind in ("pv", "pvh")}
    finally:
        bench.machine.run(f"umount -l {MOUNT}", check=False)
    write_results(bench, guests)
    return "; ".join(f"{kind} {summary(rounds)}" for kind, rounds in guests.items())


def measure_guest(bench: Bench, guest: Guest) -> dict[str, list[dict]]:
    """The figures of all rounds, for both tools."""
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    stock = f"{MOUNT}/{guest.name}.xl"
    tools = {
        "stock": (f"xl save {guest.name} {stock}", f"xl restore {stock}", f"{guest.name}.xl"),
        "comio": (bench.command("save", guest.name, url), bench.command("restore", url), f"{guest.name}.comio"),
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
    """Saves and restores in one go, and removes the image."""
    silence = bench.machine.start(f"echo $$ >/run/silence.pid; exec /bench/silence {guest.address}")
    commands = [f"/bench/measure {save}", "echo 3 >/proc/sys/vm/drop_caches", f"/bench/measure {restore}"]
    try:
        output = bench.machine.out(f"set -e; {'; '.join(commands)}")
        expect(guest.ask() is not None, "the guest does not answer after its restore")
    finally:
        bench.machine.run("kill $(cat /run/silence.pid)", check=False)
    downtime = float(bench.end(silence)[1])
    size = (bench.storage.path("images") / name).stat().st_size
    # By the server, which else would hold what is removed behind its back.
    bench.machine.run(f"find {MOUNT} -maxdepth 1 -type f -delete")
    (save_s, save_cpu_s), (restore_s, restore_cpu_s) = measured(output)
    return {
        "save_s": save_s,
        "downtime_s": downtime,
        "save_cpu_s": save_cpu_s,
        "bytes": size,
        "restore_s": restore_s,
        "restore_cpu_s": restore_cpu_s,
    }


def measured(output: str) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of dom0, of each command that was measured."""
    lines = re.findall(r"measured (\S+) (\S+)$", output, re.MULTILINE)
    return [(float(seconds), float(cpu)) for seconds, cpu in lines]


def middle(rounds: list[dict], figure: str) -> float:
    return median(one[figure] for one in rounds)


def ratios(rounds: dict[str, list[dict]]) -> dict[str, float]:
    """comio's median over stock's."""
    return {figure: middle(rounds["comio"], figure) / middle(rounds["stock"], figure) for figure in FIGURES}


def summary(rounds: dict[str, list[dict]]) -> str:
    named = ratios(rounds)
    return ", ".join(f"{figure.removesuffix('_s')} x{named[figure]:.2f}" for figure in FIGURES)


def write_results(bench: Bench, guests: dict[str, dict[str, list[dict]]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    versions = bench.machine.out("echo Xen $(xl info | sed -n 's/^xen_version *: //p'), Linux $(uname -r)")
    raw = {"versions": versions, "memory_mib": MEMORY_MIB, "rounds": guests}
    (RESULTS / "compare-stock.json").write_text(json.dumps(raw, indent=1) + "\n")
    text = TEXT.format(versions=versions, rounds=ROUNDS)
    header = ["comio ÷ stock", *guests, *(f"{kind}: comio, stock" for kind in guests)]
    text += f"| {' | '.join(header)} |\n{'|---' * len(header)}|\n"
    for figure, (meaning, form) in FIGURES.items():
        cells = [f"{ratios(rounds)[figure]:.2f}" for rounds in guests.values()]
        for rounds in guests.values():
            cells.append(", ".join(form.format(middle(rounds[tool], figure)) for tool in ("comio", "stock")))
        text += f"| {meaning} | {' | '.join(cells)} |\n"
    (RESULTS / "compare-stock.md").write_text(text)
