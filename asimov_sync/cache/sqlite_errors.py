"""The errors of a cache file: what SQLite reports, as a CacheError that says what to do."""

import errno
import os
from typing import Optional

from asimov_sync import errors

__all__ = [
    "WAY_OUT",
    "check_file_system",
    "find_file_system",
    "find_size",
    "translate_error",
    "translate_os_error",
]

MOUNTS = "/proc/self/mountinfo"
"""The file in which Linux lists its mounted file systems."""

NETWORK_FILE_SYSTEMS = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}
"""File systems that several machines may use at once. SQLite's WAL needs memory that all processes
share, and locks that work.
"""

WAY_OUT = "use a path on a local disk, or a RedisCache, which several machines can share"


def find_file_system(path: str, mounts: str) -> Optional[str]:
    """Return the type of the file system that holds an absolute path; None if none does.

    mounts: the text of MOUNTS.
    """
    longest, found = -1, None
    for line in mounts.splitlines():
        # Fields 5 and, after a lone "-", the first: the mount point and the type.
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = _unescape(fields[4]).rstrip("/") + "/"
        # Of mounts on one point, the last one hides the others.
        if (path + "/").startswith(point) and len(point) >= longest:
            longest, found = len(point), after.split()[0]
    return found


def _unescape(field: str) -> str:
    """Return a field of MOUNTS with its octal escapes (blank, tab, newline, backslash) resolved."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def check_file_system(path: str) -> None:
    """Raise CacheUnavailable if Linux reports that a path is on a network file system."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            kind = find_file_system(os.path.realpath(path), file.read())
    except OSError:
        return  # not Linux: a network file system is noticed by SQLite's errors only
    if kind in NETWORK_FILE_SYSTEMS:
        raise errors.CacheUnavailable(
            f"{path} is on a network file system ({kind}), where SQLite can lose or damage data: "
            f"{WAY_OUT}"
        )


def translate_error(error: BaseException, path: str) -> errors.CacheError:
    """Return the CacheError for an exception of the sqlite3 module.

    path: the absolute path of the database.
    """
    text = str(error)
    folder = os.path.dirname(path)
    if "locked" in text:
        return errors.CacheUnavailable(
            f"{path} is locked ({text}): another process holds a transaction open. It may be "
            "stopped, or be a program that keeps its transactions open for long"
        )
    if "full" in text:
        return errors.CacheFull(
            f"the disk is full, or a limit on the size of files is reached: {path} with "
            f"{_size_of(path)} bytes cannot grow. Free space in {folder}; then delete values, or "
            "give them a ttl"
        )
    if "readonly" in text:
        return errors.CacheReadOnly(
            f"{path} cannot be written ({text}). SQLite writes to this file and to others beside "
            f"it: give this user permission to write to the file and to its folder {folder}"
        )
    if "unable to open" in text:
        return _explain_open(text, path, folder)
    if "not a database" in text:
        return errors.CacheUnavailable(
            f"{path} is not a SQLite database, and was left as it is: choose another path"
        )
    if "malformed" in text:
        return errors.CacheUnavailable(
            f"{path} is damaged ({text}): restore a copy of it, or move it away together with "
            "its -wal and -shm files to start with an empty cache"
        )
    if "I/O error" in text or "locking protocol" in text or "shared memory" in text:
        return errors.CacheUnavailable(
            f"SQLite cannot work with {path} with {_size_of(path)} bytes ({text}). Check the disk, "
            f"its free space and the limits on the size of files. On a network file system, "
            f"{WAY_OUT}"
        )
    return errors.CacheError(f"SQLite reported an error for {path}: {text}")


def translate_os_error(error: OSError, path: str) -> errors.CacheError:
    """Return the CacheError for a file that could not be found or created.

    path: the absolute path of the database.
    """
    folder = os.path.dirname(path)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return errors.CacheUnavailable(f"{path} cannot be created: create the folder {folder}")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return errors.CacheReadOnly(
            f"{path} cannot be used ({error.strerror}): give this user permission to write to the "
            f"folder {folder}, or choose another path"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.CacheFull(f"{path} cannot be created: the disk of {folder} is full")
    return errors.CacheUnavailable(f"{path} cannot be used: {error.strerror}")


def _explain_open(text: str, path: str, folder: str) -> errors.CacheError:
    if os.path.isdir(path):
        return errors.CacheUnavailable(f"{path} is a folder: name a file in it")
    return errors.CacheReadOnly(
        f"{path} cannot be opened ({text}): give this user permission to read and write the file, "
        f"and to write to its folder {folder}"
    )


def find_size(path: str) -> int:
    """Return the bytes of a file; 0 if it does not exist."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _size_of(path: str) -> int:
    """Return the bytes of a database and its WAL."""
    return find_size(path) + find_size(path + "-wal")
