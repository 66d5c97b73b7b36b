"""Which file system holds a path: SQLite's WAL does not work on all of them."""

from __future__ import annotations

from pathlib import Path

NO_WAL = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "beegfs"})
"""Where SQLite's WAL cannot work, because its shared memory file needs one host
(https://sqlite.org/wal.html). FUSE file systems are judged by trying."""


def file_system_of(path: Path, mounts: str | None = None) -> str:
    """Name of the file system type that holds `path`, from the kernel's mount table.

    Args:
        path: Any path; its nearest existing parent is looked up.
        mounts: Text in the format of /proc/mounts; read from there if not given.
    """
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text(encoding="utf-8") if table.exists() else ""
    wanted = path.resolve()
    best, found = "", "unknown"
    for line in mounts.splitlines():
        _, mount_point, kind, *_ = line.split()
        if wanted.is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, found = mount_point, kind
    return found
