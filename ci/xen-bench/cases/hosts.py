"""Whole hosts: all guests but those left out, deadlines, and the service's commands."""

import re
import shlex
import time

import program
from bench import HOLDING, Bench, Missed, expect, wait_for
from guests import Guest
from suite import case

from .checks import ample_deadline, expect_same, expect_used, expect_words

CONFIG = "/root/host.toml"
UNIT = "/usr/lib/systemd/system/comio-guests.service"
# What systemd gives to a service.
SERVICE_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


@case("save-all")
def save_all(bench: Bench) -> str:
    """Three guests saved at once, two left out, by the configuration and by an option; restored in its order."""
    bench.clear()
    guests = [bench.guest("pv"), bench.guest("pvh"), bench.guest("pv", 1)]
    excluded = [bench.guest("pvh", 1), bench.guest("pv", 2)]
    before = {guest.name: guest.status() for guest in [*guests, *excluded]}
    domids = [guest.domid() for guest in guests]
    night = bench.storage.url("night")
    bench.machine.write(
        f'storage = "{night}"\njobs = 3\ndeadline = "10m"\norder = ["pv1", "pvh0"]\nexclude = ["pvh1"]\n', CONFIG
    )
    bench.machine.run("rm -rf /run/xl")
    begin = time.monotonic()
    bench.comio("save", "--all", "--config", CONFIG, "--exclude", "pv2", env=HOLDING)
    saved = time.monotonic() - begin
    expect(bench.domains() == ["pv2", "pvh1"], f"after the save there are {bench.domains()}")
    expect_at_once(bench.calls(), domids)
    for guest in excluded:
        expect_same(guest, before[guest.name], "a guest that was left out")
    wanted = ["night/pv0.comio", "night/pv1.comio", "night/pvh0.comio"]
    expect(bench.storage.names() == wanted, f"the storage holds {bench.storage.names()}")
    bench.drop(*excluded)
    begin = time.monotonic()
    said = bench.comio("restore", "--all", "--config", CONFIG, "--jobs", "1").stdout
    restored = time.monotonic() - begin
    expect(bench.domains() == ["pv0", "pv1", "pvh0"], f"after the restore there are {bench.domains()}")
    expect_order(said, "restored", ["pv1.comio", "pvh0.comio", "pv0.comio"])
    for guest in guests:
        expect_same(guest, before[guest.name], "restored with all")
    again = bench.comio("restore", "--all", "--config", CONFIG)
    expect_words(again.stdout, "0 done, 0 failed, 3 left out")
    counts = ", ".join(f"{guest.name} {before[guest.name].count} -> {guest.count()}" for guest in guests)
    bench.drop(guests[2])
    return f"save {saved:.1f} s, restore {restored:.1f} s; {counts}; pv2 and pvh1 ran on"


def expect_at_once(calls: list[str], domids: list[int]) -> None:
    """xl began to save all of these domains before it was done with the first."""
    saves = [call for call in calls if call.split()[1] == "save"]
    begun = sorted(int(call.split()[3]) for call in saves if call.startswith("begin"))
    expect(begun == sorted(domids), f"xl began to save {begun}, not {sorted(domids)}")
    first_end = [call.split()[0] for call in saves].index("end")
    expect(first_end == len(domids), f"only {first_end} of {len(domids)} saves were at work at once: {saves}")


def expect_order(said: str, fate: str, names: list[str]) -> None:
    """One after another, they met their fate in this order."""
    order = re.findall(rf"^(\S+) {fate}\b", said, re.MULTILINE)
    expect(order == names, f"{fate} in the order {order}, not {names}")


@case("save-all-deadline")
def save_all_deadline(bench: Bench) -> str:
    """One guest is saved in time, one is not and runs on: nothing of it is visible that could be taken for it."""
    bench.clear()
    saved, late = bench.guest("pv"), bench.guest("pvh")
    before = {guest.name: guest.status() for guest in (saved, late)}
    night = bench.storage.url("night")
    older = bench.storage.url(f"night/{late.name}.comio")
    limit = ample_deadline(bench, late, older)
    # An image of an earlier night whose guest was restored by other means than comio: nobody marked it.
    for mark in bench.marks():
        (bench.storage.path("images") / mark).unlink()
    bench.storage.restart()
    log = miss_deadline(bench, late, limit, night)
    expect(bench.domains() == [late.name], f"after the deadline there are {bench.domains()}: {log}")
    expect_same(late, before[late.name], "too late for the deadline")
    line = expect_words(log, f"{late.name} deadline")
    wanted = [f"night/{saved.name}.comio", f"night/{late.name}.comio"]
    expect(bench.images() == sorted(wanted), f"the storage holds {bench.images()}")
    bench.comio("restore", bench.storage.url(f"night/{saved.name}.comio"))
    expect_same(saved, before[saved.name], "saved in time")
    bench.drop(late)
    expect_used(bench, late, older)
    return f"deadline {limit} s: {saved.name} saved, {line!r} ran on, its older image is refused"


def miss_deadline(bench: Bench, late: Guest, limit: int, night: str) -> str:
    """Saves all guests, where xl does not begin with one before the deadline; returns what comio says."""
    call = f"before save -p {late.domid()} "
    log = "/tmp/deadline.log"
    bench.machine.run(f"rm -rf /run/xl {log} && mkdir /run/xl && echo '{call}' >/run/xl/hold")
    bench.machine.write('on_deadline = "keep-running"\njobs = 2\n', CONFIG)
    words = ["save", "--all", "--config", CONFIG, "--deadline", f"{limit}s", night]
    process = bench.machine.start(f"{bench.command(*words, env=HOLDING)} >{log} 2>&1")

    def is_over() -> bool:
        if process.poll() is not None:
            raise Missed(f"it ended before its deadline: {bench.machine.out(f'cat {log}')}")
        return bench.comes_true(f"grep -qs 'deadline is over' {log}")

    wait_for(is_over, "the deadline", limit + 120)
    bench.let_go()
    status, _ = bench.end(process)
    said = bench.machine.out(f"cat {log}")
    expect(status == 1, f"the save ended with {status}: {said}")
    return said


@case("service-unit")
def service_unit(bench: Bench) -> str:
    """The unit's commands, as systemd runs them: the host stops with a guest left in hand, and starts again."""
    bench.clear()
    guests = [bench.guest("pv"), bench.guest("pvh")]
    before = {guest.name: guest.status() for guest in guests}
    unit, config = packaged(bench)
    config += f'\nstorage = "{bench.storage.url("night")}"\njobs = 1\norder = ["pvh0", "pv0"]\n'
    bench.machine.run("mkdir -p /etc/comio && touch /etc/comio/host.toml && cp -a /etc/comio/host.toml /root/packaged")
    try:
        bench.machine.write(config, "/etc/comio/host.toml")
        leave_in_hand(bench, guests[0])
        stopped = run_unit(bench, unit, "ExecStop")
        expect(bench.domains() == [], f"after the stop there are {bench.domains()}: {stopped}")
        expect_order(stopped, "saved", ["pvh0", "pv0"])
        wanted = sorted(f"night/{guest.name}.comio" for guest in guests)
        expect(bench.storage.names() == wanted, f"the storage holds {bench.storage.names()}")
        started = [run_unit(bench, unit, name) for name in ("ExecCondition", "ExecStartPre", "ExecStart")]
    finally:
        bench.machine.run("cp -a /root/packaged /etc/comio/host.toml")
    for guest in guests:
        expect_same(guest, before[guest.name], f"after the start: {started}")
    return f"stop: {last_line(stopped)!r}; start: {last_line(started[-1])!r}"


def packaged(bench: Bench) -> tuple[str, str]:
    """The unit and the host's configuration: installed ones, or those of this repository with a bare binary."""
    if bench.machine.payload.suffix == ".deb":
        return bench.machine.out(f"cat {UNIT}"), bench.machine.out("cat /etc/comio/host.toml")
    source = program.ROOT / "cli" / "packaging"
    return (source / "comio-guests.service").read_text(), (source / "host.toml").read_text()


def leave_in_hand(bench: Bench, guest: Guest) -> None:
    process = bench.start_until("after save", "save", guest.name, bench.storage.url("crash.comio"))
    bench.kill("KILL")
    bench.end(process)
    bench.let_go()
    expect(guest.is_paused(), f"the guest is not left paused but in state {guest.state()}")
    bench.storage.empty()


def run_unit(bench: Bench, unit: str, name: str) -> str:
    """Runs all commands of this name; one with `-` may fail. Returns what they say."""
    commands = re.findall(rf"^{name}=(-?)(.+)$", unit, re.MULTILINE)
    expect(commands, f"the unit has no {name}")
    said = ""
    for lenient, command in commands:
        words = shlex.join(["env", "-i", SERVICE_PATH, *shlex.split(command)])
        said += bench.machine.run(f"umask 077; cd /; {words}", check=not lenient).stdout
    return said


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
