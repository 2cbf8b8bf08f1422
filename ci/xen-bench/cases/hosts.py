"""Whole hosts: all guests but the excluded one."""

import time

from bench import Bench, expect
from suite import case


@case("save-all")
def save_all(bench: Bench) -> str:
    guests = [bench.guest("pv"), bench.guest("pvh"), bench.guest("pv", 1)]
    excluded = bench.guest("pvh", 1)
    before = {guest.name: guest.status() for guest in [*guests, excluded]}
    night = bench.storage.url("night")
    begin = time.monotonic()
    bench.comio("save", "--all", "--jobs", "2", "--deadline", "10m", "--exclude", excluded.name, night)
    saved = time.monotonic()
    expect(bench.domains() == [excluded.name], f"after the save there are {bench.domains()}")
    problem = excluded.problem(before[excluded.name])
    expect(problem is None, f"the excluded guest: {problem}")
    expect(bench.parts() == [], f"temporary files are left: {bench.parts()}")
    expect(len(bench.images()) >= len(guests), f"the storage holds {bench.images()}")
    middle = time.monotonic()
    bench.comio("restore", "--all", "--jobs", "2", night)
    restored = time.monotonic()
    for guest in guests:
        problem = guest.problem(before[guest.name])
        expect(problem is None, problem)
    counts = ", ".join(f"{guest.name} {before[guest.name].count} -> {guest.count()}" for guest in guests)
    bench.drop(guests[2], excluded)
    return f"save {saved - begin:.1f} s, restore {restored - middle:.1f} s; {counts}; {excluded.name} ran on"
