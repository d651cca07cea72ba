"""Owner: the name of a driver, from which other processes tell whether it still lives.

`host|boot|pid|start|token`: the machine and its boot, the process and the moment it started, and a
token of the drive. A driver that died on this machine is recognized at once, without waiting for
the end of its lease.
"""

import os
import socket
import uuid
from typing import Optional

__all__ = ["describe_owner", "is_dead", "make_owner"]

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_UNKNOWN = "?"


def make_owner() -> str:
    """Return the name of a new driver in this process."""
    pid = os.getpid()
    return "|".join((socket.gethostname(), _boot_id(), str(pid), _start(pid), uuid.uuid4().hex))


def describe_owner(owner: str) -> str:
    """Return the host and the process id of a driver."""
    parts = owner.split("|")
    return f"{parts[0]}, process {parts[2]}" if len(parts) == 5 else owner


def is_dead(owner: str) -> bool:
    """Return whether the process of a driver is known to be dead; False if that is not known.

    It is known only for a process of this machine, and of this boot or an earlier one.
    """
    parts = owner.split("|")
    if len(parts) != 5 or _UNKNOWN in parts:
        return False
    host, boot, pid, start, _ = parts
    if host != socket.gethostname() or not pid.isdigit():
        return False
    if boot != _boot_id():
        # Containers may share a host name, but not the boot of another machine: not known.
        return False
    return _start(int(pid)) != start


def _boot_id() -> str:
    """Return the id of this boot, and of this container's process ids."""
    boot = _read(_BOOT_ID)
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return _UNKNOWN
    return f"{boot.strip()} {namespace}" if boot else _UNKNOWN


def _start(pid: int) -> str:
    """Return when a process started, in ticks since the boot; "dead" without such a process."""
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return _UNKNOWN if not os.path.isdir("/proc/self") else "dead"
    # The name of the program is in parentheses, and may contain anything. After it come the state
    # and 18 numbers before the start.
    fields = text.rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
