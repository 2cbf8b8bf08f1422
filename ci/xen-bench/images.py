"""Builds from Debian packages what takes long, and keeps it in a cache.

The cache holds one directory a recipe (its name is a hash of this file):

    xen         the hypervisor, as QEMU boots it
    vmlinux     the kernel of dom0 and of the guests, unpacked: its xz takes a minute under emulation
    busybox     the program that the small systems consist of
    modules/    kernel modules for dom0's first steps and for guests; `NAME.order` lists which, in order
    dom0.ext4   dom0's disk; what is the bench's own is added at boot (`boot.py`)
"""

import gzip
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RELEASE = "bookworm"
XEN = "4.17"

# What dom0 runs besides Debian's minimal system.
DOM0_PACKAGES = [
    f"xen-utils-{XEN}", "xen-utils-common", "xenstore-utils", "openssh-server", "iproute2",
    "nfs-common", "netbase", "kmod", "procps", "busybox-static", "zstd", "libxencall1", "libxenforeignmemory1", "libxenmisc4.17",
]  # fmt: skip
DISK_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
DOM0_MODULES = DISK_MODULES + [
    "virtio_net", "bridge", "xen-netback", "xen-blkback", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd",
    "xenfs", "nfs", "nfsv3", "loop", "tun",
]  # fmt: skip
GUEST_MODULES = ["xen-netfront"]
DISK_SIZE = "3G"


def cache_root() -> Path:
    """Where images are kept: `COMIO_XEN_CACHE`, or `target/xen` of the repository."""
    return Path(os.environ.get("COMIO_XEN_CACHE") or HERE.parent.parent / "target" / "xen")


def recipe() -> str:
    """A name for everything the images are made from, save the versions of the packages."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def images() -> Path:
    """The directory of the images, which are built if the cache lacks them."""
    done = cache_root() / recipe()
    if done.is_dir():
        return done
    cache_root().mkdir(parents=True, exist_ok=True)
    work = cache_root() / f"{recipe()}.part{os.getpid()}"
    work.mkdir()
    try:
        build(work)
        if not done.is_dir():
            work.rename(done)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    drop_older(done)
    return done


def drop_older(keep: Path, kept: int = 2) -> None:
    """Removes images of recipes that are not used any more."""
    others = [p for p in cache_root().iterdir() if p.is_dir() and len(p.name) == 16 and p != keep]
    for old in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[kept:]:
        shutil.rmtree(old)


def build(work: Path) -> None:
    begin = time.monotonic()
    root, packages = work / "root", work / "packages"
    packages.mkdir()
    install_system(root, packages)
    say(begin, "dom0's packages are installed")
    unpacked = unpack(packages, work / "unpacked")
    (work / "xen").write_bytes(gzip.decompress(one(unpacked / "boot", f"xen-{XEN}-amd64.gz").read_bytes()))
    kernel = one(unpacked / "boot", "vmlinuz-*")
    (work / "vmlinux").write_bytes(vmlinux(kernel.read_bytes()))
    version = kernel.name.removeprefix("vmlinuz-")
    run("depmod", "-b", unpacked, version)
    say(begin, f"kernel {version} is unpacked")
    shutil.copy2(root / "bin" / "busybox", work)
    keep_modules(work / "modules", "dom0", modules(unpacked, version, DISK_MODULES))
    keep_modules(work / "modules", "guest", modules(unpacked, version, GUEST_MODULES))
    finish_dom0(work, root, unpacked, version)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, work / "dom0.ext4", DISK_SIZE)
    for leftover in (root, packages, unpacked):
        shutil.rmtree(leftover)
    say(begin, "the images are ready")


def install_system(root: Path, packages: Path) -> None:
    """Installs dom0's system in `root`; puts the packages that are only unpacked into `packages`."""
    kernel = "$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: //p')"
    download = f'cd {packages} && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG && export APT_CONFIG && apt-get download -q -o APT::Sandbox::User=root xen-hypervisor-{XEN}-amd64 "{kernel}"'
    run(
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--architectures=amd64",
        f"--include={','.join(DOM0_PACKAGES)}",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--customize-hook={download}",
        RELEASE, root,
    )  # fmt: skip


def unpack(packages: Path, target: Path) -> Path:
    for package in packages.glob("*.deb"):
        run("dpkg-deb", "-x", package, target)
    return target


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel within a bzImage (boot protocol 2.08: payload_offset, payload_length)."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (setup_sectors + 1) * 512 + offset
    # The unpacked size follows the compressed data, within the payload.
    return lzma.decompress(image[begin : begin + length - 4])


def modules(unpacked: Path, version: str, names: list[str]) -> list[Path]:
    """The files of the named modules and of what they need, in the order of loading."""
    tree = unpacked / "lib" / "modules" / version
    needs = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        needs[path] = needed.split()
    by_name = {Path(path).stem.replace("_", "-"): path for path in needs}
    builtin = {Path(p).stem.replace("_", "-") for p in (tree / "modules.builtin").read_text().split()}
    ordered: dict[Path, None] = {}
    for name in (name.replace("_", "-") for name in names):
        if name in builtin:
            continue
        for path in [*reversed(needs[by_name[name]]), by_name[name]]:
            ordered[tree / path] = None
    return list(ordered)


def keep_modules(target: Path, name: str, files: list[Path]) -> None:
    target.mkdir(exist_ok=True)
    for file in files:
        shutil.copy2(file, target)
    (target / f"{name}.order").write_text("".join(f"{file.name}\n" for file in files))


def finish_dom0(work: Path, root: Path, unpacked: Path, version: str) -> None:
    """Adds the kernel's modules and the guests' kernel to dom0's tree, and what ssh needs."""
    (root / "bench").mkdir()
    shutil.copy2(work / "vmlinux", root / "bench")
    source = unpacked / "lib" / "modules" / version
    target = root / "lib" / "modules" / version
    for file in modules(unpacked, version, DOM0_MODULES):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy2(source / name, target)
    run("depmod", "-b", root, version)
    (root / "root" / ".ssh").mkdir(mode=0o700, exist_ok=True)
    (root / "etc" / "hostname").write_text("dom0\n")
    (root / "etc" / "resolv.conf").write_text("")
    (root / "etc" / "ssh" / "sshd_config.d" / "bench.conf").write_text("UseDNS no\nUsePAM no\nMaxSessions 100\n")
    for heavy in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(root / heavy, ignore_errors=True)


def one(directory: Path, pattern: str) -> Path:
    """The one file that fits."""
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"{pattern} in {directory}: {len(found)} files, expected one")
    return found[0]


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def say(begin: float, text: str) -> None:
    print(f"xen images: {text} ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
