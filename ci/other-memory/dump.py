"""Dumps a QEMU guest's memory and ends it: dump.py QMP-SOCKET MEBIBYTES FILE."""

import json
import socket
import sys

path, mebibytes, target = sys.argv[1:]
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(path)
answers = monitor.makefile()
answers.readline()  # the greeting


def ask(command: str, **arguments: object) -> None:
    monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    while "return" not in (answer := json.loads(answers.readline())):
        if "error" in answer:
            sys.exit(f"{command}: {answer['error']['desc']}")


ask("qmp_capabilities")
ask("stop")
ask("pmemsave", val=0, size=int(mebibytes) << 20, filename=target)
ask("quit")
