"""What goes wrong in practice: no case may lose a guest or show half an image."""

import shutil
import time

from bench import Bench, Missed, expect, wait_for
from guests import Guest, Status
from suite import case

from .checks import (
    SOFT, ample_deadline, expect_no_debris, expect_nothing_in_hand, expect_running, expect_same, expect_words,
    wait_until_saving,
)  # fmt: skip

# After a signal comio ends within its limit for a guest (90 s) and what a busy machine adds.
STOP_LIMIT = 200.0

@case("nfs-killed-in-save")
def nfs_killed_in_save(bench: Bench) -> str:
    """With a limit for silence: while xl writes, and after it. Without: the save waits for the server."""
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("killed.comio", options=SOFT)
    process = bench.start("save", guest.name, url)
    wait_until_saving(bench, process)
    bench.storage.kill()
    early = expect_given_up(bench, guest, before, url, process)
    process = bench.start_until("after save", "save", guest.name, url)
    bench.storage.kill()
    bench.let_go()
    late = expect_given_up(bench, guest, before, url, process)
    # The same save, a server that comes back: nothing is lost, and nobody has to do anything.
    count = guest.count()
    url = bench.storage.url("patient.comio")
    process = bench.start("save", guest.name, url)
    wait_until_saving(bench, process)
    bench.storage.restart()
    status, output = bench.end(process)
    expect(status == 0, f"the server came back, but the save ended with {status}: {output}")
    bench.comio("restore", url)
    expect_same(guest, before, "saved over a restart of the server")
    return f"{early}; after the stream {late}; server restarted: saved, count {count} -> {guest.count()}"


def expect_given_up(bench: Bench, guest: Guest, before: Status, url: str, process) -> str:
    """The save gives up by itself; the guest runs before the server is back."""
    begin = time.monotonic()
    status, output = bench.end(process)
    waited = time.monotonic() - begin
    expect(status == 1, f"the save ended with {status}: {output}")
    expect_same(guest, before, "without the server")
    bench.storage.start()
    expect_running(bench, guest, before, url)
    expect_no_debris(bench)
    return f"gave up after {waited:.0f} s: {expect_words(output, '10.0.2.2', 'server')!r}"


@case("nfs-dead-term")
def nfs_dead_term(bench: Bench) -> str:
    """The server dies when xl is at its end, and the save waits for it for ever: a signal lets the guest run on."""
    guest = bench.guest("pv")
    figures = []
    for signal in ("TERM", "HUP"):
        before = guest.status()
        url = bench.storage.url("dead.comio")
        process = save_without_server(bench, "save", guest.name, url)
        expect(guest.is_paused(), f"the guest is not held but in state {guest.state()}")
        begin = time.monotonic()
        bench.kill(signal)
        status, output = bench.end(process, STOP_LIMIT)
        ended = time.monotonic() - begin
        expect_same(guest, before, f"after SIG{signal}, without the server")
        expect(status == 130, f"comio ended with {status} after SIG{signal}: {output}")
        bench.storage.start()
        expect_running(bench, guest, before, url)
        expect_nothing_in_hand(bench, guest)
        expect_no_debris(bench)
        figures.append(f"SIG{signal}: status {status} after {ended:.0f} s, count {before.count} -> {guest.count()}")
    return "; ".join(figures)


@case("nfs-dead-deadline")
def nfs_dead_deadline(bench: Bench) -> str:
    """The server dies when xl is at its end: the deadline passes all the same, and the guest is shut down."""
    bench.clear()
    guest = bench.guest("pv")
    night = bench.storage.url("night")
    bench.machine.write('on_deadline = "shutdown"\n', "/root/host.toml")
    limit = ample_deadline(bench, guest, bench.storage.url("trial.comio"))
    bench.storage.empty()
    words = ["save", "--all", "--config", "/root/host.toml", "--deadline", f"{limit}s", night]
    begin = time.monotonic()
    process = save_without_server(bench, *words)
    expect(guest.is_paused(), f"the guest is not held but in state {guest.state()}")
    # Shutting down has a minute more.
    status, output = bench.end(process, limit + 2 * STOP_LIMIT)
    ended = time.monotonic() - begin
    expect(status == 1, f"the save ended with {status}: {output}")
    expect(guest.state() is None, f"the guest was not shut down; its state is {guest.state()}: {output}")
    line = expect_words(output, "shut-down", "shut down")
    bench.storage.start()
    expect(bench.images() == [], f"images are visible: {bench.images()}")
    expect_nothing_in_hand(bench, guest)
    bench.drop(guest)
    return f"ended {ended:.0f} s after its begin, deadline {limit} s: {line!r}"


def save_without_server(bench: Bench, *words: object):
    """Starts a save; returns when all of its guest was read, and the server is dead."""
    process = bench.start_until("after save", *words)
    bench.storage.kill()
    bench.let_go()
    wait_for(lambda: bench.is_journaled("held") or process.poll() is not None, "the journal to say that all was read")
    expect(process.poll() is None, "the save ended without the server")
    return process


@case("storage-full")
def storage_full(bench: Bench) -> str:
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("full.comio", export="small")
    failed = bench.comio("save", guest.name, url, check=False)
    expect(failed.returncode == 1, f"the save ended with {failed.returncode}: {failed.stdout}")
    line = expect_words(failed.stdout, "no space", "full", "free", "NOSPC")
    expect(bench.storage.names("small") == [], f"left in the storage: {bench.storage.names('small')}")
    expect_running(bench, guest, before, url)
    return repr(line)


@case("nfs-killed-in-restore")
def nfs_killed_in_restore(bench: Bench) -> str:
    guest = bench.guest("pv")
    before = guest.status()
    name = f"{guest.name}.comio"
    bench.comio("save", guest.name, bench.storage.url(name))
    others = bench.domains()
    figures = []
    for moment in ("at once", "while xl restores"):
        process = bench.start("restore", bench.storage.url(name, options=SOFT))
        if moment == "at once":
            wait_for(lambda: bench.machine.run("pgrep -x comio", check=False).returncode == 0, "comio in dom0")
        else:
            wait_for(lambda: bench.domains() != others or process.poll() is not None, "a domain being built")
            if process.poll():
                raise Missed(f"the restore failed with the server there: {bench.end(process)}")
        bench.storage.kill()
        status, output = bench.end(process)
        bench.storage.start()
        if status == 0:
            # Everything had been read by then.
            expect(moment != "at once", "the restore went on without the server")
            figures.append(f"{moment}: was done already")
            break
        line = expect_words(output, "10.0.2.2", "server")
        wait_for(lambda: bench.domains() == others, f"no domain left; there are {bench.domains()}", limit=30)
        figures.append(f"{moment}: {line!r}, no domain left")
    else:
        bench.comio("restore", bench.storage.url(name))
    problem = guest.problem(before)
    expect(problem is None, problem)
    return f"{'; '.join(figures)}; restored, count {before.count} -> {guest.count()}"


@case("corrupt-image")
def corrupt_image(bench: Bench) -> str:
    """A flipped byte in the middle, and a cut end: told, no domain made; the whole image restores."""
    guest = bench.guest("pvh")
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    bench.comio("save", guest.name, url)
    others = bench.domains()
    file = bench.storage.path("images") / f"{guest.name}.comio"
    whole = bench.storage.directory / "whole.comio"
    shutil.copyfile(file, whole)
    damages = {"flipped byte": flip_middle, "cut end": cut_end}
    lines = []
    for damage, inflict in damages.items():
        inflict(file)
        bench.storage.restart()
        failed = bench.comio("restore", url, check=False)
        expect(failed.returncode == 3, f"{damage}: the restore ended with {failed.returncode}: {failed.stdout}")
        lines.append(f"{damage}: {expect_words(failed.stdout, 'damaged', 'incomplete', 'checksum', 'corrupt')!r}")
        expect(bench.domains() == others, f"{damage}: a domain is left: {bench.domains()}")
        shutil.copyfile(whole, file)
        bench.storage.restart()
    whole.unlink()
    bench.comio("restore", url)
    problem = guest.problem(before)
    expect(problem is None, problem)
    return f"{'; '.join(lines)}; whole again: count {before.count} -> {guest.count()}"


def flip_middle(file) -> None:
    with file.open("r+b") as image:
        image.seek(file.stat().st_size // 2)
        byte = image.read(1)[0]
        image.seek(-1, 1)
        image.write(bytes([byte ^ 0x10]))


def cut_end(file) -> None:
    with file.open("r+b") as image:
        image.truncate(file.stat().st_size * 9 // 10)


@case("no-such-domain")
def no_such_domain(bench: Bench) -> str:
    lines = []
    for command in ("save", "checkpoint"):
        url = bench.storage.url("nobody.comio")
        failed = bench.comio(command, "nobody", url, check=False)
        expect(failed.returncode == 1, f"{command} ended with {failed.returncode}: {failed.stdout}")
        lines.append(expect_words(failed.stdout, "nobody"))
        expect(bench.storage.names() == [], f"left in the storage: {bench.storage.names()}")
    return repr(lines[0])


@case("suspend-ignored")
def suspend_ignored(bench: Bench) -> str:
    """A guest whose kernel does not listen: the save gives up after libxl's minute, the guest runs."""
    guest = bench.guest("deaf", parameters="initcall_blacklist=xen_setup_shutdown_event")
    before = guest.status()
    url = bench.storage.url("deaf.comio")
    begin = time.monotonic()
    failed = bench.comio("save", guest.name, url, check=False)
    waited = time.monotonic() - begin
    expect(failed.returncode == 1, f"the save ended with {failed.returncode}: {failed.stdout}")
    line = expect_words(failed.stdout, "suspend")
    expect(bench.parts() == [], f"left in the storage: {bench.parts()}")
    expect_running(bench, guest, before, url)
    bench.drop(guest)
    return f"gave up after {waited:.0f} s: {line!r}"


@case("xl-missing")
def xl_missing(bench: Bench) -> str:
    """Told by every command; an image that could not be restored without xl is not taken for used."""
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("none.comio")
    line = expect_xl_missing(bench, "save", guest.name, url)
    expect_xl_missing(bench, "list")
    expect(bench.storage.names() == [], f"left in the storage: {bench.storage.names()}")
    expect_running(bench, guest, before, url)
    bench.comio("save", guest.name, url)
    expect_xl_missing(bench, "restore", url)
    expect(bench.storage.names() == ["none.comio"], f"left in the storage: {bench.storage.names()}")
    expect_xl_missing(bench, "restore", "--all", bench.storage.url(""))
    expect(bench.storage.names() == ["none.comio"], f"left in the storage: {bench.storage.names()}")
    bench.comio("restore", url)
    expect_same(guest, before, "restored when xl was there again")
    return f"{line!r}; image unused, restored: count {before.count} -> {guest.count()}"


def expect_xl_missing(bench: Bench, *words: object) -> str:
    failed = bench.comio(*words, check=False, env="COMIO_XL=/nonexistent/xl")
    expect(failed.returncode == 1, f"{words[0]} ended with {failed.returncode}: {failed.stdout}")
    expect("panicked" not in failed.stdout, f"{words[0]} panicked: {failed.stdout}")
    return expect_words(failed.stdout, "/nonexistent/xl")
