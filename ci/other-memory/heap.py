"""A program with a heap of objects, tables, strings, numbers and syntax trees, some of which change."""

import ast
import glob
import json
import random
import time

random.seed(5)
SOURCES = [open(path, errors="replace").read() for path in sorted(glob.glob("/usr/lib/python3*/*.py"))[:60]]
WORDS = [word for source in SOURCES for word in source.split()]


class Node:
    def __init__(self, number: int):
        self.number = number
        self.name = f"user{random.getrandbits(32):08x}"
        self.score = random.random()
        self.tags = random.choices(WORDS, k=4)
        self.next: "Node | None" = None


nodes = [Node(i) for i in range(200_000)]
for node in nodes:
    node.next = random.choice(nodes)
by_name = {node.name: node for node in nodes}
floats = [random.gauss(0, 1) for _ in range(600_000)]
numbers = {random.getrandbits(40): random.getrandbits(60) for _ in range(200_000)}
documents = [json.dumps({"number": n.number, "name": n.name, "score": n.score, "tags": n.tags}) for n in nodes[:60_000]]
trees = [ast.parse(source) for source in SOURCES[:25]]
noise = [random.randbytes(20_000) for _ in range(1200)]
print("READY", flush=True)
while True:
    for _ in range(2000):
        numbers.pop(next(iter(numbers)))
        numbers[random.getrandbits(40)] = random.getrandbits(60)
    time.sleep(1)
