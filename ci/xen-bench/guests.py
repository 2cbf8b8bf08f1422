"""Guests of the bench: started in dom0, asked over the network how they are."""

import re
import time
from dataclasses import dataclass

from machine import Machine

CLOCK_TOLERANCE = 5.0
ANSWER_LIMIT = 60.0
MEMORY_MIB = 128


def clock_bound(told: int, asked: float, answered: float) -> float:
    """How far a clock that tells whole seconds may be off, if it was read between the two moments."""
    return max(answered - told, told + 1 - asked)


@dataclass
class Status:
    """What a guest told about itself."""

    count: int
    unnamed: int
    boot: str
    equal: bool
    digest: str


class Guest:
    """A guest, which may be running, saved or gone."""

    def __init__(self, machine: Machine, kind: str, number: int):
        self.machine = machine
        self.kind = kind
        self.name = f"{kind}{number}"
        self.host = {"pv": 10, "pvh": 30, "deaf": 50}[kind] + number
        self.address = f"10.9.0.{self.host}"

    def start(self, parameters: str = "") -> None:
        kind = "pvh" if self.kind == "pvh" else "pv"
        self.machine.run(f"/bench/guest {self.name} {kind} {self.host} {MEMORY_MIB} {parameters}")
        # As an NTP client would. What was lost while a starved machine booted the guest is not the save's fault.
        self.clock_error(within=CLOCK_TOLERANCE / 2, question="?$(date +%s)")

    def ask(self, question: str = "", limit: float = ANSWER_LIMIT) -> str | None:
        """The guest's answer over its network, or None if there is none in time."""
        url = f"http://{self.address}/cgi-bin/status?{question}"
        deadline = time.monotonic() + limit
        while True:
            done = self.machine.run(f"timeout 30 busybox wget -qO- '{url}' 2>&1", check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > deadline:
                return None
            time.sleep(0.3)

    def answers(self) -> bool:
        """Whether the guest runs and its network works."""
        return self.state() is not None and self.ask(limit=5.0) is not None

    def cpu_seconds(self) -> float:
        """The processor time that the hypervisor counts."""
        return float(self.machine.out(f"xl list {self.name}").split()[-1])

    def is_paused(self) -> bool:
        return (self.state() or "------")[2] == "p"

    def domid(self) -> int:
        return int(self.machine.out(f"xl domid {self.name}"))

    def state(self) -> str | None:
        """The state column of `xl list`, or None if there is no such domain."""
        done = self.machine.run(f"xl list {self.name}", check=False)
        return done.stdout.splitlines()[-1].split()[-2] if done.returncode == 0 else None

    def status(self) -> Status:
        """Asks for everything, and reads every file of the guest."""
        told = {}
        # The counter's file is empty for a moment each time that it is written.
        while not told.keys() >= {"count", "unnamed"}:
            answer = self.ask("hashes")
            if answer is None:
                raise RuntimeError(f"{self.name} does not answer; its state is {self.state()}")
            pairs = (line.split(maxsplit=1) for line in answer.splitlines())
            told = dict(pair for pair in pairs if len(pair) == 2)
        return Status(
            count=int(told["count"]),
            unnamed=int(told["unnamed"]),
            boot=told["boot"],
            equal=told["hashes"] == "equal",
            digest=told["digest"],
        )

    def clock_error(self, within: float = CLOCK_TOLERANCE, question: str = "") -> float:
        """How far the clock may be off dom0's at most. Slow answers tell too little: it is asked until one tells that
        it is right, or time is over."""
        url = f"http://{self.address}/cgi-bin/clock{question}"
        command = f'date +%s.%N; timeout 10 busybox wget -qO- "{url}" && date +%s.%N'
        deadline = time.monotonic() + ANSWER_LIMIT
        bound = float("inf")
        while bound > within and time.monotonic() < deadline:
            done = self.machine.run(command, check=False)
            if done.returncode == 0:
                asked, told, answered = done.stdout.split()
                bound = min(bound, clock_bound(int(told), float(asked), float(answered)))
        return bound

    def count(self) -> int:
        while True:
            answer = self.ask()
            if answer is None:
                raise RuntimeError(f"{self.name} does not answer; its state is {self.state()}")
            if found := re.search(r"count (\d+)", answer):
                return int(found[1])

    def write_pattern(self, generation: int) -> None:
        """Fills known pages of the guest's memory (guest/www/cgi-bin/pattern)."""
        answer = self.machine.out(f"busybox wget -qO- 'http://{self.address}/cgi-bin/pattern?{generation}'")
        if f"generation {generation}" not in answer:
            raise RuntimeError(f"{self.name} did not write its pattern: {answer}")

    def problem(self, before: Status) -> str | None:
        """What keeps this from being the guest that `before` was asked of, running on."""
        now = self.status()
        if now.boot != before.boot:
            return f"{self.name} was booted anew"
        if not before.count <= now.count <= now.unnamed + 2:
            return f"{self.name} counts {now.count} (open file {now.unnamed}) after {before.count}"
        if not now.equal or now.digest != before.digest:
            return f"{self.name}'s files have changed"
        error = self.clock_error()
        if error > CLOCK_TOLERANCE:
            return f"{self.name}'s clock is up to {error:.1f} s off dom0's"
        deadline = time.monotonic() + ANSWER_LIMIT
        while (later := self.count()) <= now.count:
            if time.monotonic() > deadline:
                return f"{self.name}'s counter stays at {later}"
            time.sleep(0.5)
        return None
