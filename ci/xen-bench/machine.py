"""The machine under test: QEMU with Xen and dom0, and a way to run commands in dom0."""

import shlex
import subprocess
import time
from pathlib import Path

from boot import make_boot_files

SSH_PORT = 2222
MEMORY_MIB = 2560
DOM0_MEMORY_MIB = 768
# A busy machine takes several times the half minute of a quiet one.
BOOT_LIMIT = 600.0
COMMAND_LIMIT = 600.0
CRASHES = ("(XEN) Panic on CPU", "Hardware Dom0 crashed", "Kernel panic")


class CommandFailed(Exception):
    """A command in dom0 ended badly; the text tells what it said."""

    def __init__(self, command: str, status: int, output: str):
        super().__init__(f"`{command}` ended with {status}: {output.strip()}")
        self.status = status
        self.output = output


class Machine:
    """A booted machine. Use as a context manager: it is powered off at the end."""

    def __init__(self, images: Path, files: Path, logs: Path, payload: Path):
        self.images = images
        self.logs = logs
        self.payload = payload
        self.serial = logs / "serial.log"
        self.started = time.monotonic()
        self.files = files
        make_boot_files(images, files, payload)
        self.qemu = self._start()

    def _start(self) -> subprocess.Popen:
        xen = f"dom0_mem={DOM0_MEMORY_MIB}M,max:{DOM0_MEMORY_MIB}M dom0_max_vcpus=1 console=com1 com1=115200"
        linux = "console=hvc0 net.ifnames=0 nokaslr quiet"
        disk = f"file={self.images / 'dom0.ext4'},if=virtio,format=raw,cache=unsafe,snapshot=on"
        command = [
            # Only software emulation: that /dev/kvm opens does not mean that Xen boots on it.
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64,+svm,+npt", "-smp", "1", "-m", f"{MEMORY_MIB}M",
            "-display", "none", "-monitor", "none", "-no-reboot", "-kernel", self.images / "xen", "-append", xen,
            # QEMU divides the list of modules at commas; the first one is Linux.
            "-initrd", f"{self.images / 'vmlinux'} {linux},{self.files}/initrd",
            "-drive", disk, "-drive", f"file={self.files}/payload.tar,if=virtio,format=raw,readonly=on",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{SSH_PORT}-:22", "-device", "virtio-net-pci,netdev=net",
            "-serial", f"file:{self.serial}",
        ]  # fmt: skip
        log = (self.logs / "qemu.log").open("wb")
        words = ["nice", "-n", "10", *map(str, command)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self) -> float:
        """Waits for the toolstack; returns the seconds since QEMU was started."""
        self._wait_for_stage("network")
        while self.run("test -e /run/bench-ready", check=False, limit=60).returncode != 0:
            self._check_alive()
            time.sleep(0.3)
        return time.monotonic() - self.started

    def _wait_for_stage(self, stage: str) -> None:
        while f"BENCH {stage} " not in self.serial_text():
            self._check_alive()
            time.sleep(0.2)

    def _check_alive(self) -> None:
        text = self.serial_text()
        if self.qemu.poll() is not None:
            raise RuntimeError(f"QEMU ended with {self.qemu.returncode}: {(self.logs / 'qemu.log').read_text()}")
        if time.monotonic() - self.started > BOOT_LIMIT or any(crash in text for crash in CRASHES):
            raise RuntimeError(f"dom0 did not boot; the serial line ends:\n{text[-2000:]}")

    def serial_text(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def ssh(self) -> list[str]:
        """The ssh command as far as the options; all calls share one connection."""
        options = {
            "IdentityFile": f"{self.files}/key",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
            "ControlPath": f"{self.files}/control",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "60",
            "ServerAliveInterval": "30",
            "Port": SSH_PORT,
        }
        return ["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options.items()), "root@127.0.0.1"]

    def run(self, command: str, *, check: bool = True, limit: float = COMMAND_LIMIT) -> subprocess.CompletedProcess:
        """Runs a shell command in dom0; its output and its errors are one text."""
        done = subprocess.run(
            [*self.ssh(), command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=limit,
        )  # fmt: skip
        self.note(f"{command}\n  -> {done.returncode}\n{done.stdout}")
        if check and done.returncode != 0:
            raise CommandFailed(command, done.returncode, done.stdout)
        return done

    def out(self, command: str, limit: float = COMMAND_LIMIT) -> str:
        """The output of a command that must succeed."""
        return self.run(command, limit=limit).stdout.strip()

    def start(self, command: str) -> subprocess.Popen:
        """Starts a command in dom0 and returns at once."""
        return subprocess.Popen(
            [*self.ssh(), command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip

    def put(self, source: Path, target: str, mode: str = "755") -> None:
        """Copies a file into dom0."""
        word = shlex.quote(target)
        with source.open("rb") as file:
            command = f"cat >{word} && chmod {mode} {word}"
            subprocess.run([*self.ssh(), command], stdin=file, check=True, timeout=COMMAND_LIMIT)

    def write(self, text: str, target: str) -> None:
        """Writes a small file in dom0."""
        self.run(f"printf %s {shlex.quote(text)} >{shlex.quote(target)}")

    def get(self, pattern: str, target: Path) -> None:
        """Copies files of dom0 into a directory, as far as they exist."""
        target.mkdir(parents=True, exist_ok=True)
        command = f"tar -c --ignore-failed-read {pattern} 2>/dev/null"
        packed = subprocess.run([*self.ssh(), command], stdout=subprocess.PIPE, timeout=COMMAND_LIMIT).stdout
        subprocess.run(["tar", "-x", "-C", target], input=packed, stderr=subprocess.DEVNULL, check=False)

    def note(self, text: str) -> None:
        """Adds to the log of what was done in dom0."""
        with (self.logs / "commands.log").open("a") as log:
            log.write(f"[{time.monotonic() - self.started:8.1f}] {text}\n")

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.kill()
        self.qemu.wait()

