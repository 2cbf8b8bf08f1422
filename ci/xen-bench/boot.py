"""What is the bench's own in a boot, made anew each time: it takes a second.

    initrd      finds dom0's disk and adds the programs of `dom0/` and the guests' system to it
    guest.cpio  the guests' whole system, an initramfs: busybox and the files of `guest/`
    key         the ssh key that dom0 accepts in this boot
    payload.tar what dom0 finds in /bench/payload: its second disk, many times faster than ssh
"""

import shutil
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def make_boot_files(images: Path, target: Path, payload: Path) -> None:
    target.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "xen-bench", "-f", target / "key"], check=True)
    guest = small_system(target / "guest.tree", images, "guest")
    shutil.copytree(HERE / "guest", guest, dirs_exist_ok=True)
    pack_initramfs(guest, target / "guest.cpio")

    initrd = small_system(target / "initrd.tree", images, "dom0")
    bench = initrd / "bench"
    shutil.copytree(HERE / "dom0", bench)
    (bench / "initrd-init").rename(initrd / "init")
    shutil.copy2(target / "guest.cpio", bench)
    shutil.copy2(target / "key.pub", bench / "authorized_keys")
    pack_initramfs(initrd, target / "initrd")

    with tarfile.open(target / "payload.tar", "w") as archive:
        if payload.is_file():
            archive.add(payload, payload.name)


def small_system(tree: Path, images: Path, name: str) -> Path:
    """Busybox and kernel modules; `modules/order` names them in the order of loading."""
    for directory in ("bin", "dev", "proc", "sys", "run", "root", "modules"):
        (tree / directory).mkdir(parents=True)
    shutil.copy2(images / "busybox", tree / "bin")
    (tree / "bin" / "sh").symlink_to("busybox")
    order = (images / "modules" / f"{name}.order").read_text().split()
    for module in order:
        shutil.copy2(images / "modules" / module, tree / "modules")
    (tree / "modules" / "order").write_text("".join(f"/modules/{module}\n" for module in order))
    return tree


def pack_initramfs(tree: Path, target: Path) -> None:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    with target.open("wb") as packed:
        command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
        subprocess.run(command, input="\n".join(names).encode(), cwd=tree, stdout=packed, check=True)
    shutil.rmtree(tree)
