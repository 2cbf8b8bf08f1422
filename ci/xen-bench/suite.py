"""Which cases there are, and how they are run and reported."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from bench import Bench, Missed
from machine import CommandFailed

# A case gets the bench and returns its figures, a few words.
Case = Callable[[Bench], str]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Makes a function a case."""

    def register(function: Case) -> Case:
        CASES[name] = function
        return function

    return register


@dataclass
class Report:
    """What was printed, and how many cases failed."""

    lines: list[str] = field(default_factory=list)
    failed: int = 0

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)


def run_cases(bench: Bench, names: list[str]) -> Report:
    """Runs cases, prints a line for each and the sum."""
    report = Report()
    for name in names:
        begin = time.monotonic()
        bench.machine.note(f"=== {name}")
        try:
            verdict, figures = "passed", CASES[name](bench)
        except (Missed, CommandFailed) as error:
            verdict, figures = "failed", " ".join(str(error).split())
        except Exception as error:  # the bench's own mistakes fail the case, not the suite
            (bench.logs / f"{name}.traceback").write_text(traceback.format_exc())
            verdict, figures = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
        report.say(f"{name} {verdict}: {figures} [{time.monotonic() - begin:.0f} s]")
        if verdict == "failed":
            report.failed += 1
            collect_logs(bench, name)
            bench.clear()
        else:
            bench.storage.empty()
    collect_logs(bench, "end")
    report.say(f"{len(names) - report.failed} passed, {report.failed} failed")
    return report


def collect_logs(bench: Bench, moment: str) -> None:
    """Keeps what dom0 wrote so far."""
    paths = "/var/log/xen /var/log/xen-start.log /var/lib/comio /tmp/*.log /tmp/comio.stderr"
    bench.machine.run("xl list; xenstore-ls /local/domain 2>/dev/null | head -200; dmesg | tail -50", check=False)
    bench.machine.run("xl dmesg >/tmp/xl-dmesg.log", check=False)
    bench.machine.get(paths, bench.logs / f"dom0-{moment}")
