"""Saves and restores that must work."""

import stat
import time

from bench import Bench, expect
from guests import Guest
from suite import case


@case("pv-roundtrip")
def pv_roundtrip(bench: Bench) -> str:
    return roundtrip(bench, bench.guest("pv"))


@case("pvh-roundtrip")
def pvh_roundtrip(bench: Bench) -> str:
    return roundtrip(bench, bench.guest("pvh"))


def roundtrip(bench: Bench, guest: Guest) -> str:
    """Saves, looks at what is left, restores, looks at the guest."""
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    begin = time.monotonic()
    bench.comio("save", guest.name, url)
    saved = time.monotonic()
    expect(guest.state() is None, f"the domain is still there after the save: {guest.state()}")
    file = bench.storage.path("images") / f"{guest.name}.comio"
    expect(bench.storage.names() == [file.name], f"the storage holds {bench.storage.names()}")
    mode = stat.S_IMODE(file.stat().st_mode)
    expect(mode == 0o600, f"the image has mode {mode:o}: it holds the guest's memory")
    size = file.stat().st_size
    middle = time.monotonic()
    bench.comio("restore", url)
    restored = time.monotonic()
    problem = guest.problem(before)
    expect(problem is None, problem)
    return (
        f"save {saved - begin:.1f} s, restore {restored - middle:.1f} s, image {size / 2**20:.1f} MiB, "
        f"count {before.count} -> {guest.count()}"
    )


@case("stock-restores-unpacked")
def stock_restores_unpacked(bench: Bench) -> str:
    figures = []
    for guest in (bench.guest("pv"), bench.guest("pvh")):
        before = guest.status()
        url = bench.storage.url(f"{guest.name}.comio")
        bench.comio("save", guest.name, url)
        bench.comio("unpack", url, "/root/unpacked.xl")
        size = int(bench.machine.out("stat -c %s /root/unpacked.xl"))
        bench.machine.run("xl restore /root/unpacked.xl")
        bench.machine.run("rm /root/unpacked.xl")
        problem = guest.problem(before)
        expect(problem is None, problem)
        figures.append(f"{guest.name} {size / 2**20:.0f} MiB, count {before.count} -> {guest.count()}")
    return "; ".join(figures)


@case("restore-packed-stock")
def restore_packed_stock(bench: Bench) -> str:
    figures = []
    for guest in (bench.guest("pv"), bench.guest("pvh")):
        before = guest.status()
        url = bench.storage.url(f"{guest.name}.comio")
        bench.machine.run(f"xl save {guest.name} /root/stock.xl")
        bench.comio("pack", "/root/stock.xl", url)
        bench.machine.run("rm /root/stock.xl")
        bench.comio("restore", url)
        problem = guest.problem(before)
        expect(problem is None, problem)
        figures.append(f"{guest.name} count {before.count} -> {guest.count()}")
    return "; ".join(figures)


@case("checkpoint")
def checkpoint(bench: Bench) -> str:
    """The guest goes on; its checkpoint can take its place, but only if that is asked for."""
    figures = []
    for guest in (bench.guest("pv"), bench.guest("pvh")):
        before = guest.status()
        url = bench.storage.url(f"{guest.name}.comio")
        bench.comio("checkpoint", guest.name, url)
        problem = guest.problem(before)
        expect(problem is None, f"after the checkpoint: {problem}")
        bench.comio("verify", url)
        last = guest.count()
        bench.machine.run(f"xl destroy {guest.name}")
        refused = bench.comio("restore", url, check=False)
        expect(refused.returncode != 0, "a checkpoint whose guest went on was restored without --force")
        expect("--force" in refused.stdout, f"the refusal does not name --force: {refused.stdout}")
        expect(guest.name not in bench.domains(), "the refused restore left a domain")
        bench.comio("restore", "--force", url)
        problem = guest.problem(before)
        expect(problem is None, f"after the restore: {problem}")
        figures.append(f"{guest.name} count {before.count}, {last} when destroyed, {guest.count()} restored")
    return "; ".join(figures)


@case("restore-once")
def restore_once(bench: Bench) -> str:
    """An image can be restored once: two lives on one disk corrupt it."""
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    bench.comio("save", guest.name, url)
    bench.comio("restore", url)
    problem = guest.problem(before)
    expect(problem is None, problem)
    bench.machine.run(f"xl destroy {guest.name}")
    refused = bench.comio("restore", url, check=False)
    expect(refused.returncode != 0, "an image was restored twice without --force")
    expect("--force" in refused.stdout, f"the refusal does not name --force: {refused.stdout}")
    expect(bench.domains() == sorted(set(bench.domains()) - {guest.name}), "the refused restore left a domain")
    bench.comio("restore", "--force", url)
    problem = guest.problem(before)
    expect(problem is None, f"restored with --force: {problem}")
    return f"refused, then forced; count {before.count} -> {guest.count()}"


@case("restore-overrides")
def restore_overrides(bench: Bench) -> str:
    """Paused and under another name, by uuid; then unpaused."""
    guest = bench.guest("pvh")
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    uuid = bench.machine.out(f"xl list -v {guest.name} | tail -n 1").split()[6]
    bench.comio("save", uuid, url)
    bench.comio("restore", "--paused", "--name", "other", url)
    state = bench.machine.out("xl list other | tail -n 1").split()[-2]
    expect(state[2] == "p", f"the guest is not paused: {state}")
    bench.machine.run("xl unpause other")
    problem = guest.problem(before)
    bench.machine.run(f"xl rename other {guest.name}")
    expect(problem is None, problem)
    line = restore_by_config(bench, guest, url, uuid)
    problem = guest.problem(before)
    expect(problem is None, f"restored by a configuration: {problem}")
    return (
        f"saved by uuid {uuid}, restored paused as `other`; by a configuration as `configured`, "
        f"refused with a wrong one ({line!r}); count {before.count} -> {guest.count()}"
    )


def restore_by_config(bench: Bench, guest: Guest, url: str, uuid: str) -> str:
    """Restores by a file that names the guest anew; one that cannot work leaves no domain."""
    bench.comio("save", guest.name, url)
    others = bench.domains()
    file = f"/etc/xen/{guest.name}.cfg"
    bench.machine.run(f"sed 's/^name = .*/name = \"configured\"/' {file} >/root/configured.cfg")
    bench.machine.run("sed 's,script=[^\"]*,script=/nonexistent,' /root/configured.cfg >/root/wrong.cfg")
    failed = bench.comio("restore", "--config", "/root/wrong.cfg", url, check=False)
    expect(failed.returncode == 1, f"by a wrong configuration: {failed.returncode}: {failed.stdout}")
    expect(bench.domains() == others, f"by a wrong configuration: a domain is left: {bench.domains()}")
    bench.comio("restore", "--config", "/root/configured.cfg", url)
    same = bench.machine.out("xl list -v configured | tail -n 1").split()[6]
    bench.machine.run(f"xl rename configured {guest.name}")
    expect(same == uuid, f"the guest's uuid was {uuid} and is {same}")
    return failed.stdout.strip().splitlines()[-1]
