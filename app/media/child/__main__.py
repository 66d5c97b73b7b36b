"""The nursery: loads the codecs once, touches no file, and forks a fresh child per task.

Started as `python -m app.media.child FD MODULE`. Over the socket FD the gateway sends one byte and
one socket per task; the child speaks over that socket: it names its pid, reads one line of JSON,
answers with JSON and ends. A child has seen one file in its life, so that a file which takes over
its decoder meets nobody else's.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from app.media.child.refusal import Refused

Task = Callable[..., dict[str, Any]]


def main(control_fd: int, module: str) -> None:
    """Serve until the gateway closes its end of the control socket."""
    tasks: Mapping[str, Task] = importlib.import_module(module).TASKS
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel buries the children
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            try:
                _serve(socket.socket(fileno=fds[0]), tasks)
            finally:
                os._exit(0)
        os.close(fds[0])


def _serve(connection: socket.socket, tasks: Mapping[str, Task]) -> None:
    connection.sendall(b"%d\n" % os.getpid())
    with connection.makefile("rb") as lines:
        request = json.loads(lines.readline())
    _limit(**request["limits"])
    connection.sendall(json.dumps(_answer(tasks[request["task"]], request["args"])).encode())


def _limit(*, seconds: float, memory_bytes: int, output_bytes: int) -> None:
    # The default action of SIGALRM ends the process even while it is deep inside a codec.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output_bytes, output_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _answer(task: Task, args: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": task(**args)}
    except Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"died": "memory"}
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return {"died": "disk"}
        return {"died": "error", "detail": traceback.format_exc()}
    except Exception:  # noqa: BLE001 - the whole process ends here; the gateway logs and decides
        return {"died": "error", "detail": traceback.format_exc()}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
