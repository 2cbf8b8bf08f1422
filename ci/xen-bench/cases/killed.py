"""comio ends before its work does: killed, and by signals that it can catch."""

import subprocess
import time

from bench import Bench, expect, wait_for
from guests import Guest, Status
from suite import case

from .checks import (
    expect_no_debris, expect_nothing_in_hand, expect_running, expect_same, expect_used, expect_words,
    wait_until_saving,
)  # fmt: skip


@case("comio-killed")
def comio_killed(bench: Bench) -> str:
    """Killed from before xl begins until the guest is to be destroyed; then one `comio recover`."""
    guest = bench.guest("pv")
    # What a kill does, and whether the guest is paused and its image visible then.
    moments = [
        ("before xl begins", kill_before_xl, False, False),
        ("first bytes", lambda *names: kill_after_bytes(*names, 1 << 20), None, False),
        ("half of the image", lambda *names: kill_after_bytes(*names, 10 << 20), None, False),
        ("xl at its end", kill_at_xls_end, True, False),
        ("guest held, server dead", kill_without_server, True, False),
        ("guest to be destroyed", kill_before_destroy, True, True),
    ]
    return "; ".join(f"{name}: {after_kill(bench, guest, *what)}" for name, *what in moments)


def after_kill(bench: Bench, guest: Guest, kill, paused: bool | None, visible: bool) -> str:
    """Kills, recovers, and expects the guest to run and its image to be used or not to be."""
    before = guest.status()
    url = bench.storage.url("killed.comio")
    kill(bench, guest, url)
    state = guest.state()
    expect(state is not None, "the guest is gone")
    expect(paused is None or guest.is_paused() == paused, f"the guest's state is {state}")
    expect((bench.images() != []) == visible, f"visible: {bench.images()}")
    said = recover(bench, guest)
    expect_same(guest, before, f"recovered ({said})")
    expect(("whole" in said) == visible, f"comio recover says of the image (visible: {visible}): {said}")
    expect_nothing_in_hand(bench, guest)
    if visible:
        bench.comio("verify", url)
        expect_once_more(bench, guest, before, url)
    else:
        bench.expect_no_image(url)
    expect_no_debris(bench)
    bench.storage.empty()
    return f"state {state}, {said!r}"


def recover(bench: Bench, guest: Guest) -> str:
    """What `comio recover`, run once, says of the guest."""
    done = bench.comio("recover", check=False)
    expect(done.returncode == 0, f"comio recover ended with {done.returncode}: {done.stdout}")
    return expect_words(done.stdout, guest.name)


def expect_once_more(bench: Bench, guest: Guest, before: Status, url: str) -> None:
    """The guest went on, so that its image is only restored by force."""
    bench.machine.run(f"xl destroy {guest.name}")
    expect_used(bench, guest, url)
    bench.comio("restore", "--force", url)
    expect_same(guest, before, "restored by force")


def end_killed(bench: Bench, process: subprocess.Popen) -> None:
    bench.kill("KILL")
    status, output = bench.end(process)
    expect(status not in (0, 1), f"the save was over before it was killed: {status}: {output}")


def kill_before_xl(bench: Bench, guest: Guest, url: str) -> None:
    process = bench.start_until("before save", "save", guest.name, url)
    end_killed(bench, process)
    bench.let_go()


def kill_after_bytes(bench: Bench, guest: Guest, url: str, some: int) -> None:
    process = bench.start("save", guest.name, url)
    wait_until_saving(bench, process, some)
    end_killed(bench, process)


def kill_at_xls_end(bench: Bench, guest: Guest, url: str) -> None:
    """xl outlives comio: `comio recover` must not say that all is well before xl has ended."""
    process = bench.start_until("after save", "save", guest.name, url)
    end_killed(bench, process)
    recovering = bench.start("recover")
    # Time for one that does not wait.
    time.sleep(3)
    early = recovering.poll()
    bench.let_go()
    status, output = bench.end(recovering)
    expect(early is None or status == 1, f"xl was at work, and comio recover ended with {status}: {output}")
    if early is None:
        # It has seen to the guest. So that the rest is as for the others, once more from there.
        expect(status == 0, f"comio recover ended with {status} after xl's end: {output}")
        expect_words(output, guest.name)
        process = bench.start_until("after save", "save", guest.name, url)
        end_killed(bench, process)
        bench.let_go()


def kill_without_server(bench: Bench, guest: Guest, url: str) -> None:
    process = bench.start_until("after save", "save", guest.name, url)
    bench.storage.kill()
    bench.let_go()
    wait_for(lambda: bench.is_journaled("held"), "the journal to say that all was read")
    end_killed(bench, process)
    bench.storage.start()


def kill_before_destroy(bench: Bench, guest: Guest, url: str) -> None:
    process = bench.start_until("before destroy", "save", guest.name, url)
    end_killed(bench, process)
    bench.let_go()


@case("recover-finish")
def recover_finish(bench: Bench) -> str:
    """A guest whose save was complete but for its end is destroyed if it never ran since, and only then."""
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url("finish.comio")
    kill_before_destroy(bench, guest, url)
    finished = bench.comio("recover", "--finish", check=False)
    expect(finished.returncode == 0, f"recover --finish ended with {finished.returncode}: {finished.stdout}")
    expect(guest.state() is None, f"the guest is still there: {guest.state()}: {finished.stdout}")
    line = expect_words(finished.stdout, "destroyed")
    expect(bench.marks() == [], "the image of a guest that never ran since is marked")
    bench.comio("restore", url)
    expect_same(guest, before, "restored after recover --finish")
    return f"{line!r}; {finish_without_image(bench, guest)}; {finish_one_that_ran(bench, guest)}"


def finish_without_image(bench: Bench, guest: Guest) -> str:
    """No image: `--finish` lets the guest run."""
    before = guest.status()
    url = bench.storage.url("none.comio")
    kill_without_server(bench, guest, url)
    finished = bench.comio("recover", "--finish")
    expect_same(guest, before, f"without an image ({finished.stdout.strip()})")
    return f"without an image: {expect_words(finished.stdout, guest.name)!r}"


def finish_one_that_ran(bench: Bench, guest: Guest) -> str:
    """Somebody let the guest run for a moment, and paused it again."""
    before = guest.status()
    url = bench.storage.url("ran.comio")
    kill_before_destroy(bench, guest, url)
    used = guest.cpu_seconds()
    bench.machine.run(f"xl unpause {guest.name} && xl pause {guest.name}")
    used = guest.cpu_seconds() - used
    finished = bench.comio("recover", "--finish", check=False)
    expect(guest.state() is not None, f"the guest ran for {used:.1f} s and was destroyed: {finished.stdout}")
    expect(guest.is_paused(), f"the guest, paused by hand, is in state {guest.state()}: {finished.stdout}")
    line = expect_words(finished.stdout, "ran since")
    bench.machine.run(f"xl unpause {guest.name}")
    expect_same(guest, before, "paused by hand")
    expect_once_more(bench, guest, before, url)
    return f"ran {used:.1f} s more: {line!r}"


@case("restore-killed")
def restore_killed(bench: Bench) -> str:
    """A restore that was killed: its image is restored again, unless its guest may have run."""
    guest = bench.guest("pv")
    before = guest.status()
    url = bench.storage.url(f"{guest.name}.comio")
    bench.comio("save", guest.name, url)
    figures = [killed_in_restore(bench, url), killed_then_removed(bench, guest, url)]
    figures += [killed_then_unpaused(bench, guest, before, url), killed_before_start(bench, guest, before, url)]
    return f"{'; '.join(figures)}; count {before.count} -> {guest.count()}"


def killed_in_restore(bench: Bench, url: str) -> str:
    others = bench.domains()
    process = bench.start("restore", url)
    wait_until_building(bench, process, others)
    end_killed(bench, process)
    done = bench.comio("recover", check=False)
    expect(done.returncode == 0, f"comio recover ended with {done.returncode}: {done.stdout}")
    expect(bench.domains() == others, f"a domain is left: {bench.domains()}: {done.stdout}")
    expect(bench.marks() == [], "the image is marked, and its guest never was")
    return f"as xl builds: {done.stdout.strip()!r}"


def killed_then_removed(bench: Bench, guest: Guest, url: str) -> str:
    kill_restore_at(bench, guest, "after restore", url)
    said = expect_words(bench.comio("recover", check=False).stdout, "never started")
    expect(guest.is_paused(), f"the guest, which never ran, is in state {guest.state()}")
    removed = bench.comio("recover", "--finish").stdout
    expect(guest.state() is None, f"the guest that never ran is still there: {removed}")
    expect(bench.marks() == [], f"the guest never ran, its image is marked: {removed}")
    return f"at xl's end: {said!r}, removed"


def killed_then_unpaused(bench: Bench, guest: Guest, before: Status, url: str) -> str:
    """As `comio recover` advises. The guest ran, so that its image stays used when it is gone."""
    kill_restore_at(bench, guest, "after restore", url)
    bench.comio("recover", check=False)
    bench.machine.run(f"xl unpause {guest.name}")
    expect_same(guest, before, "unpaused by hand")
    bench.machine.run(f"xl destroy {guest.name}")
    said = bench.comio("recover", check=False).stdout.strip()
    expect_used(bench, guest, url)
    return f"ran and ended: {said!r}, image refused"


def killed_before_start(bench: Bench, guest: Guest, before: Status, url: str) -> str:
    kill_restore_at(bench, guest, "before unpause", "--force", url)
    said = recover(bench, guest)
    expect_same(guest, before, f"killed before its start, recovered ({said})")
    return f"before its start: {said!r}"


def wait_until_building(bench: Bench, process: subprocess.Popen, others: list[str]) -> None:
    wait_for(lambda: bench.domains() != others or process.poll() is not None, "a domain being built")
    expect(process.poll() is None, "the restore was over too early for this case")


def kill_restore_at(bench: Bench, guest: Guest, call: str, *words: str) -> None:
    """The guest is there and complete, and was not let run."""
    process = bench.start_until(call, "restore", *words)
    end_killed(bench, process)
    bench.let_go()
    expect(guest.is_paused(), f"the guest is not there paused, but in state {guest.state()}")


@case("sigterm")
def sigterm(bench: Bench) -> str:
    """A signal that can be caught leaves nothing to recover, whenever it comes."""
    guest = bench.guest("pv")
    figures = []
    for signal, moment in (("TERM", "in the stream"), ("INT", "in the stream"), ("TERM", "after it"), ("HUP", "after it")):
        before = guest.status()
        url = bench.storage.url("stopped.comio")
        if moment == "in the stream":
            process = bench.start("save", guest.name, url)
            wait_until_saving(bench, process)
            begin = time.monotonic()
            bench.kill(signal)
        else:
            process = bench.start_until("after save", "save", guest.name, url)
            expect(guest.is_paused(), f"the guest is not held but in state {guest.state()}")
            begin = time.monotonic()
            bench.kill(signal)
            bench.let_go()
        status, output = bench.end(process)
        ended = time.monotonic() - begin
        expect_same(guest, before, f"SIG{signal} {moment}: status {status}, {output.strip()}")
        expect(status == 130, f"comio ended with {status} after SIG{signal} {moment}: {output}")
        expect(bench.parts() == [], f"left in the storage: {bench.parts()}")
        expect_running(bench, guest, before, url)
        expect_nothing_in_hand(bench, guest)
        figures.append(f"SIG{signal} {moment}: {status} after {ended:.1f} s")
    before = guest.status()
    figures.append(stopped_restore(bench, guest, before))
    return f"{'; '.join(figures)}; count {before.count} -> {guest.count()}"


def stopped_restore(bench: Bench, guest: Guest, before: Status) -> str:
    url = bench.storage.url(f"{guest.name}.comio")
    bench.comio("save", guest.name, url)
    others = bench.domains()
    process = bench.start("restore", url)
    wait_until_building(bench, process, others)
    begin = time.monotonic()
    bench.kill("TERM")
    status, output = bench.end(process)
    ended = time.monotonic() - begin
    expect(status == 130, f"the restore ended with {status} after SIGTERM: {output}")
    expect(bench.domains() == others, f"a domain is left: {bench.domains()}")
    expect(bench.marks() == [], "the image is marked, and its guest never was")
    expect_nothing_in_hand(bench, guest)
    bench.comio("restore", url)
    expect_same(guest, before, "restored after a restore that was stopped")
    return f"SIGTERM in a restore: {status} after {ended:.1f} s"


@case("record-killed")
def record_killed(bench: Bench) -> str:
    """Killed while it holds the guest still: `comio recover` lets it run."""
    guest = bench.guest("pv")
    before = guest.status()
    process = bench.start("record", guest.name, bench.storage.url("trace"), "--every", "600s", "--for", "600s")
    wait_for(lambda: guest.is_paused() or process.poll() is not None, "the guest paused")
    expect(process.poll() is None, "the recording ended")
    bench.kill("KILL")
    bench.end(process)
    state = guest.state()
    done = bench.comio("recover", check=False)
    expect(done.returncode == 0, f"comio recover ended with {done.returncode}: {done.stdout}")
    expect_same(guest, before, f"killed in state {state}; {done.stdout.strip()}")
    return f"killed in state {state}; {done.stdout.strip()!r}; count {before.count} -> {guest.count()}"
