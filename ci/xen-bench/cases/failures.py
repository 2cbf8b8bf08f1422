"""What goes wrong in practice: no case may lose a guest or show half an image."""

import re
import shutil
import subprocess
import time

from bench import Bench, Missed, expect, wait_for
from guests import Guest, Status
from suite import case

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


def wait_until_saving(bench: Bench, process: subprocess.Popen) -> None:
    """Waits until some of the image is on the server."""

    def is_saving() -> bool:
        expect(process.poll() is None, "the save was over too early for this case")
        return bench.part_bytes() >= SOME_BYTES

    wait_for(is_saving, "some of the image on the server")


@case("nfs-killed-in-save")
def nfs_killed_in_save(bench: Bench) -> str:
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("killed.comio", options=SOFT)
    process = bench.start("save", guest.name, url)
    wait_until_saving(bench, process)
    bench.storage.kill()
    begin = time.monotonic()
    status, output = bench.end(process)
    waited = time.monotonic() - begin
    expect(status == 1, f"the save ended with {status}: {output}")
    problem = guest.problem(before)
    expect(problem is None, problem)
    bench.storage.start()
    expect_running(bench, guest, before, url)
    line = expect_words(output, "10.0.2.2", "server")
    # The same save, a server that comes back: nothing is lost, and nobody has to do anything.
    count = guest.count()
    url = bench.storage.url("patient.comio")
    process = bench.start("save", guest.name, url)
    wait_until_saving(bench, process)
    bench.storage.restart()
    status, output = bench.end(process)
    expect(status == 0, f"the server came back, but the save ended with {status}: {output}")
    bench.comio("restore", url)
    problem = guest.problem(before)
    expect(problem is None, f"saved over a restart of the server: {problem}")
    return f"gave up after {waited:.0f} s: {line!r}; server restarted: saved, count {count} -> {guest.count()}"


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


@case("comio-killed")
def comio_killed(bench: Bench) -> str:
    """Killed when some is written, when the stream is at its end, and at three times between."""
    guest = bench.guest("pv")
    figures = []
    moments = {
        "first bytes": lambda process: wait_until_saving(bench, process),
        "after 0.3 s": lambda _: time.sleep(0.3),
        "after 2 s": lambda _: time.sleep(2),
        "stream at its end": lambda _: wait_until_stream_ends(bench),
    }
    for moment, reach in moments.items():
        before = guest.status()
        url = bench.storage.url("killed.comio")
        process = bench.start("save", guest.name, url)
        reach(process)
        bench.machine.run("pkill -KILL -x comio", check=False)
        status, _ = bench.end(process)
        figures.append(f"{moment}: {after_kill(bench, guest, before, url, status)}")
    return "; ".join(figures)


def wait_until_stream_ends(bench: Bench) -> None:
    """Waits in dom0, to be quick: xl writes no more, and comio still runs."""
    helper = "pgrep -x libxl-save-help >/dev/null"
    loops = f"until {helper}; do sleep 0.02; done; while {helper}; do sleep 0.02; done"
    bench.machine.run(f"timeout 60 sh -c '{loops}'")


def after_kill(bench: Bench, guest: Guest, before: Status, url: str, status: int) -> str:
    """Recovers, and expects the guest to run or its image to be whole."""
    state = guest.state()
    recovered = bench.comio("recover", check=False)
    expect(recovered.returncode == 0, f"comio recover ended with {recovered.returncode}: {recovered.stdout}")
    if guest.state() is None:
        # The kill came after the image was complete.
        bench.comio("restore", url)
        outcome = "the save was done"
    else:
        expect(bench.images() == [] or status == 0 or state is not None, f"visible: {bench.images()}")
        outcome = f"state {state}, recovered"
    problem = guest.problem(before)
    expect(problem is None, f"{outcome}: {problem}")
    if bench.images():
        # A complete image of a guest that runs on must not be restored by accident.
        refused = bench.comio("restore", url, check=False)
        expect(refused.returncode != 0, "the image of a running guest was restored")
        outcome += ", image complete"
    bench.comio("clean", "--all", bench.storage.url(""))
    expect(bench.parts() == [], f"comio clean left {bench.parts()}")
    bench.storage.empty()
    return outcome


@case("sigterm")
def sigterm(bench: Bench) -> str:
    """A signal that can be caught leaves nothing to recover."""
    figures = []
    for signal in ("TERM", "INT"):
        guest = bench.guest("pv")
        before = guest.status()
        url = bench.storage.url("stopped.comio")
        process = bench.start("save", guest.name, url)
        wait_until_saving(bench, process)
        begin = time.monotonic()
        bench.machine.run(f"pkill -{signal} -x comio")
        status, output = bench.end(process)
        ended = time.monotonic() - begin
        expect(status not in (0, 1, 2), f"comio ended with {status} after SIG{signal}: {output}")
        expect(bench.parts() == [], f"left in the storage: {bench.parts()}")
        expect_running(bench, guest, before, url)
        recovered = bench.comio("recover")
        expect(guest.name not in recovered.stdout, f"there is something to recover: {recovered.stdout}")
        figures.append(f"SIG{signal}: status {status} after {ended:.1f} s, count {before.count} -> {guest.count()}")
    return "; ".join(figures)


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
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("none.comio")
    line = ""
    for words in (["save", guest.name, url], ["restore", url], ["list"]):
        failed = bench.comio(*words, check=False, env="COMIO_XL=/nonexistent/xl")
        expect(failed.returncode == 1, f"{words[0]} ended with {failed.returncode}: {failed.stdout}")
        if words[0] != "restore":
            line = expect_words(failed.stdout, "/nonexistent/xl")
        expect(not re.search("panicked", failed.stdout), f"{words[0]} panicked: {failed.stdout}")
    expect(bench.storage.names() == [], f"left in the storage: {bench.storage.names()}")
    expect_running(bench, guest, before, url)
    return repr(line)
