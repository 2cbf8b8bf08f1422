"""The storage: nfs-ganesha beside QEMU, in the bench's own namespaces.

dom0 reaches it as 10.0.2.2, which QEMU's user network turns into the loopback of the bench.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

HOST = "10.0.2.2"
NFS_PORT = 12049
MOUNT_PORT = 12050
# The exports and their sizes: one with room, one that is soon full.
EXPORTS = {"images": "1536m", "small": "8m"}
READY_LIMIT = 60.0


class Storage:
    """The server and the file systems that it exports, all in memory. Use as a context manager."""

    def __init__(self, directory: Path, logs: Path):
        self.directory = directory
        self.log = logs / "ganesha.log"
        self.server: subprocess.Popen | None = None
        run("ip", "link", "set", "lo", "up")
        for name, size in EXPORTS.items():
            self.path(name).mkdir(parents=True)
            run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.path(name))
        self._write_configuration()
        # ganesha wants rpcbind, which wants a place for its socket.
        Path("/run/rpcbind").mkdir()
        self.portmapper = start("rpcbind", "-f")
        wait_for_port(111)
        self.empty()

    def path(self, export: str) -> Path:
        """An export's directory on the server."""
        return self.directory / "exports" / export

    def url(self, name: str, export: str = "images", options: str = "") -> str:
        """The URL of an image or a directory, as dom0 sees it."""
        extra = f"&{options}" if options else ""
        return f"nfs://{HOST}/{export}/{name}?nfsport={NFS_PORT}&mountport={MOUNT_PORT}&uid=0&gid=0{extra}"

    def names(self, export: str = "images") -> list[str]:
        """The files of the export, with their directories."""
        top = self.path(export)
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())

    def start(self) -> None:
        """Starts the server, and returns when it answers."""
        command = ["ganesha.nfsd", "-F", "-N", "NIV_EVENT", "-f", self.directory / "ganesha.conf"]
        self.server = start(*command, "-L", self.log, "-p", self.directory / "ganesha.pid")
        wait_for_port(NFS_PORT)
        wait_for_port(MOUNT_PORT)

    def kill(self) -> None:
        """Kills the server without a word."""
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None

    def empty(self) -> None:
        """Removes everything from the exports; the server is restarted, since it holds removed files."""
        self.kill()
        for export in EXPORTS:
            for entry in self.path(export).iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        # For whole hosts, and for traces.
        for directory in ("night", "trace"):
            (self.path("images") / directory).mkdir()
        self.start()

    def restart(self) -> None:
        self.kill()
        self.start()

    def _write_configuration(self) -> None:
        state = self.directory / "state"
        state.mkdir()
        text = (
            f"NFS_CORE_PARAM {{ NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; Protocols = 3; Enable_NLM = false; "
            "Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true; "
            "Plugins_Dir = /usr/lib/x86_64-linux-gnu/ganesha; }\n"
            f"NFSv4 {{ RecoveryRoot = {state}; Graceless = true; }}\nLOG {{ Default_Log_Level = EVENT; }}\n"
        )
        for number, name in enumerate(EXPORTS, 1):
            text += (
                f"EXPORT {{ Export_Id = {number}; Path = {self.path(name)}; Pseudo = /{name}; Access_Type = RW; "
                "Squash = No_Root_Squash; SecType = sys; Protocols = 3; Transports = TCP; PrivilegedPort = false; "
                "FSAL { Name = VFS; } }\n"
            )
        (self.directory / "ganesha.conf").write_text(text)

    def __enter__(self) -> "Storage":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.portmapper.kill()
        self.portmapper.wait()


def wait_for_port(port: int) -> None:
    limit = time.monotonic() + READY_LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > limit:
                raise RuntimeError(f"Nobody listens on port {port}") from error
            time.sleep(0.05)


def start(*command: object) -> subprocess.Popen:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([os.fspath(word) for word in command], stdin=quiet, stdout=quiet, stderr=quiet)


def run(*command: object) -> None:
    subprocess.run([os.fspath(word) for word in command], check=True)
