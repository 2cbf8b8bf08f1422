"""The cases; importing a module adds its cases to the suite, in this order."""

from . import roundtrip, hosts, failures, killed, record, compare  # noqa: F401, I001
