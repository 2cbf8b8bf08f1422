"""What several cases look at."""

import subprocess
import time

from bench import Bench, Missed, expect, wait_for
from guests import Guest, Status

# A silent server is given up after this many seconds.
SOFT = "soft=10"
SOME_BYTES = 1 << 20


def expect_running(bench: Bench, guest: Guest, before: Status, url: str) -> None:
    """The guest runs on as if nothing had been tried, and no image is visible."""
    problem = guest.problem(before)
    expect(problem is None, problem)
    bench.expect_no_image(url)


def expect_words(output: str, *words: str) -> str:
    """The message says one of the words; returns the line that does."""
    for line in reversed(output.splitlines()):
        if any(word.lower() in line.lower() for word in words):
            return line.strip()
    raise Missed(f"the message names none of {words}: {output}")


def expect_same(guest: Guest, before: Status, when: str) -> None:
    """It is the guest of `before`, running on."""
    problem = guest.problem(before)
    expect(problem is None, f"{when}: {problem}")


def expect_used(bench: Bench, guest: Guest, url: str) -> None:
    """The image is refused because it is marked: its guest is not there."""
    expect(guest.state() is None, f"{guest.name} is there, in state {guest.state()}")
    refused = bench.comio("restore", url, check=False)
    expect(refused.returncode == 1, f"a used image: the restore ended with {refused.returncode}: {refused.stdout}")
    expect_words(refused.stdout, "--force")
    expect(guest.state() is None, f"the refused restore left {guest.name} in state {guest.state()}")


def expect_no_debris(bench: Bench) -> None:
    """`comio clean` leaves nothing but images."""
    bench.comio("clean", "--all", bench.storage.url(""))
    expect(bench.parts() == [], f"comio clean left {bench.parts()}")


def expect_nothing_in_hand(bench: Bench, guest: Guest) -> None:
    """`comio recover` knows nothing of the guest."""
    recovered = bench.comio("recover")
    expect(guest.name not in recovered.stdout, f"there is something to recover: {recovered.stdout}")


def ample_deadline(bench: Bench, guest: Guest, url: str) -> int:
    """Seconds that a save of the guest surely takes no longer than, as a checkpoint tells."""
    begin = time.monotonic()
    bench.comio("checkpoint", guest.name, url)
    return max(30, round(3 * (time.monotonic() - begin)))


def wait_until_saving(bench: Bench, process: subprocess.Popen, some: int = SOME_BYTES) -> None:
    """Waits until so many bytes of the image are on the server."""

    def is_saving() -> bool:
        expect(process.poll() is None, "the save was over too early for this case")
        return bench.part_bytes() >= some

    wait_for(is_saving, "some of the image on the server")
