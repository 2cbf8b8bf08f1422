"""The program under test: built here, installed in dom0."""

import os
import subprocess
from pathlib import Path

from machine import Machine

ROOT = Path(__file__).resolve().parent.parent.parent
PAYLOAD = "/bench/payload"
# What an administrator expects of the package beside the program.
PARTS = (
    "/etc/comio/host.toml",
    "/usr/lib/systemd/system/comio-guests.service",
    "/usr/share/man/man1/comio-save.1.gz",
    "/usr/share/bash-completion/completions/comio",
    "/usr/share/zsh/vendor-completions/_comio",
    "/usr/share/fish/vendor_completions.d/comio.fish",
)


def program() -> Path:
    """The package or the binary to test: `COMIO_XEN_PROGRAM`, or what is built from this repository."""
    chosen = os.environ.get("COMIO_XEN_PROGRAM")
    if chosen:
        return Path(chosen).resolve()
    return newest(ROOT / "target" / "debian", "comio_*.deb")


def build() -> None:
    """Builds what `program` names; needs the network as cargo does."""
    if os.environ.get("COMIO_XEN_PROGRAM"):
        return
    subprocess.run([ROOT / "ci" / "package", "--features", "comio/xen"], check=True)


def newest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_mtime)


def install(machine: Machine) -> None:
    """Installs the program, which dom0 finds in its payload."""
    package = f"{PAYLOAD}/{machine.payload.name}"
    if machine.payload.suffix == ".deb":
        # dom0 leaves manuals out of what it installs; an administrator's does not.
        whole = "--path-include='/usr/share/man/*' --path-include='/usr/share/doc/*'"
        machine.run(f"DEBIAN_FRONTEND=noninteractive dpkg {whole} -i {package}")
        machine.run(f"ls {' '.join(PARTS)} && dpkg --verify comio && test -z \"$(dpkg --verify comio)\"")
    else:
        machine.run(f"install {package} /usr/bin/comio")
    machine.note(machine.out("comio --version"))


def unpacked(directory: Path) -> Path:
    """The program to run beside dom0; of a package it is unpacked into the directory."""
    if program().suffix != ".deb":
        return program()
    target = directory / "program"
    if not target.exists():
        subprocess.run(["dpkg-deb", "-x", program(), target], check=True)
    return target / "usr" / "bin" / "comio"
