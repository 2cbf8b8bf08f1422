"""Memory traces of running guests: every page that the guest holds still is right in every step."""

import json
import subprocess
from pathlib import Path

import program
from bench import Bench, expect, wait_for
from guests import Guest
from suite import case

# Long enough for the first step, all of the guest, to be saved and the pattern to be written again, on
# a busy machine too: a step that is late is made at once.
EVERY_S = 80
STEPS = 3
PAGE = 4096
# As guest/www/cgi-bin/pattern writes them.
STILL = range(128)
MOVING = range(128, 256)

REPLAY = """
name = "replay"
question = "Does a recorded trace replay?"
mode = "real"
seed = 1
operation = "save-then-restore"
methods = ["raw", "comio"]
[guests]
count = 2
memory = "64 MiB"
traces = ["exports/images/trace/steps-0", "exports/images/trace/steps-{last}"]
[hosts]
cores = 2
[server]
location = "embedded"
"""


@case("record-pvh")
def record_pvh(bench: Bench) -> str:
    return record(bench, bench.guest("pvh"))


@case("record-pv")
def record_pv(bench: Bench) -> str:
    return record(bench, bench.guest("pv"))


def record(bench: Bench, guest: Guest) -> str:
    """Writes a generation of the pattern between any two steps, and looks for it in them."""
    before = guest.status()
    guest.write_pattern(0)
    lasts = EVERY_S * (STEPS - 1)
    directory = bench.storage.url("trace")
    times = ["--every", f"{EVERY_S}s", "--for", f"{lasts}s"]
    process = bench.start("record", guest.name, directory, *times, "--name", "steps", "--level", "fast")
    for step in range(STEPS - 1):
        wait_for(lambda: has_step(bench, step) or process.poll() is not None, f"step {step} in the storage", 3 * EVERY_S)
        expect(process.poll() is None or has_step(bench, step), f"it ended early: {process.stdout.read()}")
        guest.write_pattern(step + 1)
        expect(not has_step(bench, step + 1), "the machine is too slow for this case: the next step came too early")
    status, output = bench.end(process)
    expect(status == 0, f"comio record ended with {status}: {output}")
    problem = guest.problem(before)
    expect(problem is None, f"after recording: {problem}")
    found = find_pattern(bench)
    bench.comio("trace", "check", f"{bench.storage.url('trace')}")
    replay(bench)
    return f"{STEPS} steps, {found} pages right in each, replayed; {costs(bench)}"


def trace(bench: Bench) -> Path:
    return bench.storage.path("images") / "trace"


def has_step(bench: Bench, step: int) -> bool:
    return (trace(bench) / f"steps-{step}.comio").exists()


def find_pattern(bench: Bench) -> int:
    """Finds for each page of the pattern a frame with the right content in every step; returns how many."""
    steps = []
    for number in range(STEPS):
        flat = bench.storage.directory / "flat"
        local(bench, "unpack", trace(bench) / f"steps-{number}.comio", flat)
        steps.append(pattern_frames(flat))
        flat.unlink()
    for index in [*STILL, *MOVING]:
        wanted = [expected_page(index, number if index in MOVING else 0) for number in range(STEPS)]
        frames = set.intersection(*(step.get(page, set()) for step, page in zip(steps, wanted, strict=True)))
        expect(frames, f"no frame holds page {index} of the pattern as it was at every step")
    return len(STILL) + len(MOVING)


def expected_page(index: int, generation: int) -> bytes:
    return f"COMIO-PATTERN {index:05} {generation:05}      \n".encode() * 128


def pattern_frames(flat: Path) -> dict[bytes, set[int]]:
    """Which frames hold which page of the pattern."""
    frames: dict[bytes, set[int]] = {}
    with flat.open("rb") as file:
        number = 0
        while page := file.read(PAGE):
            if page.startswith(b"COMIO-PATTERN "):
                frames.setdefault(page, set()).add(number)
            number += 1
    return frames


def replay(bench: Bench) -> None:
    scenario = bench.storage.directory / "replay.toml"
    scenario.write_text(REPLAY.format(last=STEPS - 1))
    local(bench, "scenario", "run", scenario, "--output", bench.logs / "replay")


def local(bench: Bench, *words: object) -> None:
    """Runs the program beside dom0, where it is faster."""
    command = [program.unpacked(bench.storage.directory), *words]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expect(done.returncode == 0, f"comio {words[0]} ended with {done.returncode}: {done.stdout}")


def costs(bench: Bench) -> str:
    """How long the guest stood still, and what was copied."""
    notes = json.loads((trace(bench) / "steps.trace.json").read_text())
    paused = [step["paused_ms"] for step in notes["steps"]]
    changed = [step["changed_pages"] for step in notes["steps"][1:]]
    sizes = [path.stat().st_size for path in sorted(trace(bench).glob("steps-*.comio"))]
    return (
        f"paused {', '.join(f'{ms:.0f}' for ms in paused)} ms, changed pages {', '.join(map(str, changed))}, "
        f"{sizes[0] / 2**20:.1f} MiB first, {max(sizes[1:]) / 2**20:.2f} MiB at most after it"
    )
