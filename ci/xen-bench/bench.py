"""What a case works with: the machine, the storage, the guests, and the program under test."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from guests import Guest
from machine import Machine
from storage import Storage

# comio's own journal in dom0.
STATE = "/var/lib/comio"
# What comio runs for xl when a case needs to hold it somewhere (dom0/xl).
HOLDING = "COMIO_XL=/bench/xl"


class Missed(Exception):
    """The program did not do what it must."""


def expect(held: object, otherwise: str) -> None:
    """Ends the case unless `held`."""
    if not held:
        raise Missed(otherwise)


def wait_for(condition: Callable[[], object], what: str, limit: float = 120.0) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + limit
    while not condition():
        expect(time.monotonic() < deadline, f"waited {limit:.0f} s in vain: {what}")
        time.sleep(0.1)


class Bench:
    """One booted machine and its storage."""

    def __init__(self, machine: Machine, storage: Storage, logs: Path):
        self.machine = machine
        self.storage = storage
        self.logs = logs
        self.guests: dict[str, Guest] = {}

    # Guests

    def guest(self, kind: str, number: int = 0, parameters: str = "") -> Guest:
        """The running guest of this kind and number; it is started if it is not there."""
        name = f"{kind}{number}"
        guest = self.guests.get(name)
        if guest is None or not guest.answers():
            self.machine.run(f"xl destroy {name}", check=False)
            guest = Guest(self.machine, kind, number)
            guest.start(parameters)
            self.guests[name] = guest
        return guest

    def drop(self, *guests: Guest) -> None:
        """Destroys guests that no other case needs."""
        for guest in guests:
            self.machine.run(f"xl destroy {guest.name}", check=False)
            self.guests.pop(guest.name, None)

    def clear(self) -> None:
        """Leaves no process, no domain, no image and no journal to the next case."""
        self.kill("KILL")
        self.machine.run("rm -rf /run/xl")
        for name in self.domains():
            self.machine.run(f"xl destroy {name}", check=False)
        self.guests.clear()
        self.machine.run(f"rm -rf {STATE}", check=False)
        self.storage.empty()

    def domains(self) -> list[str]:
        """The names of all domains but dom0; libxl calls a half-made one by its number."""
        lines = self.machine.out("xl list").splitlines()[1:]
        return sorted(line.split()[0] for line in lines if line.split()[0] != "Domain-0")

    # The program

    def comio(self, *words: object, check: bool = True, env: str = "") -> subprocess.CompletedProcess:
        """Runs comio in dom0."""
        return self.machine.run(self.command(*words, env=env), check=check)

    def json(self, *words: object) -> dict:
        """What comio reports with `--json`."""
        text = self.machine.out(self.command(*words, "--json") + " 2>/tmp/comio.stderr")
        return json.loads(text)

    def start(self, *words: object, env: str = "") -> subprocess.Popen:
        """Starts comio in dom0."""
        return self.machine.start(self.command(*words, env=env))

    def kill(self, signal: str) -> None:
        """Sends every comio in dom0 a signal."""
        self.machine.run(f"pkill -{signal} -x comio", check=False)

    def start_until(self, call: str, *words: object) -> subprocess.Popen:
        """Starts comio in dom0; returns when xl is held at a call such as `before destroy` or `after save`."""
        self.machine.run(f"rm -rf /run/xl && mkdir /run/xl && echo '{call}' >/run/xl/hold")
        process = self.start(*words, env=HOLDING)

        def is_held() -> bool:
            if process.poll() is not None:
                raise Missed(f"it never came to xl's call: {self.end(process)}")
            return self.comes_true("[ -e /run/xl/held ]")

        wait_for(is_held, f"xl held {call}", 300)
        return process

    def let_go(self) -> None:
        """Lets the held xl go on; returns when it does."""
        self.machine.run("rm -f /run/xl/hold; while [ -e /run/xl/held ]; do sleep 0.05; done", limit=60)

    def calls(self) -> list[str]:
        """What xl was called with since the last hold, begins and ends."""
        return self.machine.out("cat /run/xl/calls").splitlines()

    def is_journaled(self, step: str) -> bool:
        """Whether comio has noted this step for a guest, or does so in a moment."""
        return self.comes_true(f"grep -qsE '\"step\": *\"{step}\"' {STATE}/journal/*")

    def comes_true(self, condition: str) -> bool:
        """Whether a shell's condition holds in dom0 within some seconds. It is looked at there: to ask often over ssh
        would take the processor from what is waited for."""
        loop = f"for i in $(seq 20); do {condition} && exit 0; sleep 0.2; done; exit 1"
        return self.machine.run(loop, check=False).returncode == 0

    def end(self, process: subprocess.Popen, limit: float = 300.0) -> tuple[int, str]:
        """The status and the output of a program that `start` started."""
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Missed(f"it still runs after {limit:.0f} s") from error
        return process.returncode, output

    @staticmethod
    def command(*words: object, env: str = "") -> str:
        return f"{env} comio {' '.join(shlex.quote(str(word)) for word in words)}".strip()

    # Images

    def images(self) -> list[str]:
        """Files that are neither temporary nor marks: what is seen of images."""
        return [name for name in self.storage.names() if not is_part(name) and not is_mark(name)]

    def marks(self) -> list[str]:
        """Marks of used images."""
        return [name for name in self.storage.names() if is_mark(name)]

    def parts(self, export: str = "images") -> list[str]:
        """Temporary files of saves."""
        return [name for name in self.storage.names(export) if is_part(name)]

    def part_bytes(self) -> int:
        """Bytes that the server holds in temporary files."""
        sizes = 0
        for name in self.parts():
            try:
                sizes += (self.storage.path("images") / name).stat().st_blocks * 512
            except FileNotFoundError:
                pass
        return sizes

    def expect_no_image(self, url: str) -> None:
        """No image is visible, neither to the file system nor to comio."""
        expect(self.images() == [], f"images are visible: {self.images()}")
        verified = self.comio("verify", url, check=False)
        expect(verified.returncode != 0, f"comio verifies what must not be there: {verified.stdout}")


def is_part(name: str) -> bool:
    return name.endswith(".comio-part")


def is_mark(name: str) -> bool:
    return name.endswith(".comio-used")
