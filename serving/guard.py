"""`guard.py PARENT_PID COMMAND...` becomes COMMAND, which the kernel ends when the parent dies, however it dies.

Run by path with `python -I -S`, so it imports the standard library alone. (`preexec_fn` would do the same in the forked
child, where Python code is unsafe once the parent has threads.)
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec of a program that is not setuid


def become(command: list[str], *, parent_pid: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death, then replace this process by the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before the kernel was asked to watch it
        sys.exit(f"the parent {parent_pid} ended before {command[0]} started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(sys.argv[2:], parent_pid=int(sys.argv[1]))
