"""Memory traces of running guests: every page that the guest holds still is right in every step."""

import json
import subprocess
import time
from pathlib import Path

import program
from bench import Bench, Missed, expect, wait_for
from guests import Guest
from suite import case

# Seconds between steps, one after the other until it is long enough for a step to be saved and the pattern
# to be written again: a step that is late is made at once, and nobody knows what it finds.
EVERY_S = (40, 120, 360)
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


class TooEarly(Missed):
    """The next step was due before the pattern was written again."""


def record(bench: Bench, guest: Guest) -> str:
    """Records the guest in steps as far apart as this machine needs, and looks for its pattern in them."""
    before = guest.status()
    for every_s in EVERY_S:
        try:
            record_steps(bench, guest, every_s)
            break
        except TooEarly as error:
            bench.machine.note(f"{every_s} s between steps: {error}")
            bench.storage.empty()
    else:
        raise Missed(f"the machine is too slow for this case: the next step came too early, also after {EVERY_S[-1]} s")
    problem = guest.problem(before)
    expect(problem is None, f"after recording: {problem}")
    found = find_pattern(bench)
    bench.comio("trace", "check", f"{bench.storage.url('trace')}")
    replay(bench)
    return f"{STEPS} steps, {found} pages right in each, replayed; {costs(bench)}"


def record_steps(bench: Bench, guest: Guest, every_s: int) -> None:
    """Writes a generation of the pattern between any two steps."""
    guest.write_pattern(0)
    times = ["--every", f"{every_s}s", "--for", f"{every_s * (STEPS - 1)}s"]
    process = bench.start("record", guest.name, bench.storage.url("trace"), *times, "--name", "steps", "--level", "fast")
    begin = 0.0
    for step in range(STEPS - 1):
        wait_for(lambda: has_step(bench, step) or process.poll() is not None, f"step {step} in the storage", 600)
        if not has_step(bench, step):
            raise Missed(f"it ended early: {bench.end(process)[1]}")
        # Steps are due so long after the first one is stored, which is seen a moment later.
        begin = begin or time.monotonic() - 1
        guest.write_pattern(step + 1)
        took = time.monotonic() - begin
        bench.machine.note(f"the pattern of step {step + 1} was written {took:.0f} s after the first step")
        if took > every_s * (step + 1):
            bench.machine.run("pkill -INT -x comio", check=False)
            bench.end(process)
            raise TooEarly(f"that was too late for a step every {every_s} s")
    status, output = bench.end(process, limit=300 + 2 * every_s)
    expect(status == 0, f"comio record ended with {status}: {output}")


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
