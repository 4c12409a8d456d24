"""Turn what a failing step of set-up printed into what went wrong and what to do. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

# The first pattern that matches names what to do. A network that is away also ends in "No matching distribution".
REMEDIES = (
    (
        r"No space left on device",
        "free some disk space (both environments take 3 GB for a CPU), then run make setup again",
    ),
    (
        r"name resolution|NewConnectionError|ConnectTimeout|ReadTimeout|Network is unreachable|Connection refused"
        r"|ProxyError",
        "no network to the package index {index}: connect, or name a mirror that you can reach with PIP_INDEX_URL, "
        "or a folder of wheels with PIP_FIND_LINKS; then run make setup again",
    ),
    (
        r"SSLError|CERTIFICATE_VERIFY_FAILED",
        "the certificate of the package index {index} is not trusted: name its authority with PIP_CERT",
    ),
    (
        r"No matching distribution found for torch\b",
        "the package index {index} has no torch for this Python and machine: unset TORCH_INDEX or name another",
    ),
    (
        r"No matching distribution found for (?P<wheel>\S+)",
        "the package index {index} has no wheel {wheel} for this Python and machine: see what make doctor says of them",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "the package index {index} serves another file than requirements/data.lock names: use another index",
    ),
    (
        r"(?P<wheel>lib\S+\.so\S*): cannot open shared object file",
        "the system library {wheel} is missing (libgomp.so.1: apt-get install libgomp1); make doctor looks for others",
    ),
    (r"has requirement .*, but you have", "the lock file contradicts itself: run make locks, then make setup again"),
    (r"ensurepip is not", "apt-get install python3.11-venv (of the version that PYTHON names)"),
)
UNKNOWN_REMEDY = "read {log}; packages came from {index}"


def package_index(*, output: str, torch_index: str) -> str:
    """Name the index that pip used: its own words where it gives them, else what it was told."""
    spoken = re.findall(r"Looking in indexes: (.+)", output)
    return str(spoken[-1]) if spoken else torch_index or os.environ.get("PIP_INDEX_URL") or "PyPI (pip's default)"


def explain(*, output: str, log: Path, torch_index: str) -> str:
    """Give the step's own last words, then the command or the change that mends it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = [line for line in lines if line.lower().startswith("error:")][-2:] or lines[-2:]
    index = package_index(output=output, torch_index=torch_index)
    for pattern, remedy in REMEDIES:
        match = re.search(pattern, output)
        if match:
            wheel = match.groupdict().get("wheel", "")
            return "\n  ".join([*last, "-> " + remedy.format(index=index, wheel=wheel)])
    return "\n  ".join([*last, "-> " + UNKNOWN_REMEDY.format(index=index, log=log)])
