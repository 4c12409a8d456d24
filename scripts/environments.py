"""Where the two environments lie, what they were made for and what they hold.

Shared by set-up and doctor, and like them limited to the standard library and to what Python 3.8 can read: both run
before anything is installed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAIN, TRITON = ".venv", ".venv-triton"
WHEELS = ".cache/wheels"
STAMP = ".setup.json"  # in an environment whose set-up was finished; scripts/setup_env.py writes it last
EXTRAS = ("spark", "scann")  # what .venv can have on top of its lock: requirements/<extra>.lock
SUPPORTED_PYTHONS = ((3, 11), (3, 12))  # numpy 1.26, which Triton's Python stub needs, ends at 3.12

ASK_PYTHON = """
import importlib.util, json, sys, sysconfig
folders = [sysconfig.get_config_var(name) or "" for name in ("LIBDIR", "LIBPL")]
venv = importlib.util.find_spec("ensurepip") is not None
print(json.dumps({"version": list(sys.version_info[:3]), "folders": folders, "venv": venv}))
"""
ASK_ENVIRONMENT = """
import importlib.metadata, json, sys, sysconfig
names = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({"packages": names, "site": sysconfig.get_path("purelib"), "version": list(sys.version_info[:2])}))
"""


def canonical(name: str) -> str:
    """Spell a package name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def ask(python: str, program: str) -> dict[str, Any] | None:
    """Run a few lines in another Python and read the JSON that they print; None if it cannot run them."""
    try:
        answer = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def find_gpus() -> list[str]:
    """List the NVIDIA GPUs that the driver shows, by name."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.startswith("GPU ")]


def read_stamp(environment: Path) -> dict[str, Any]:
    """Read what a finished set-up left in an environment; empty where none finished."""
    try:
        return dict(json.loads((environment / STAMP).read_text()))
    except (OSError, ValueError):
        return {}


def lock_versions(lock: Path) -> dict[str, str]:
    """Read the name==version lines of a lock file."""
    lines = [line.strip() for line in lock.read_text().splitlines()] if lock.exists() else []
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(pair[0]): pair[1] for pair in pairs if len(pair) == 2}


def data_wheels(root: Path) -> list[tuple[Path, str]]:
    """List the wheels that are read without being installed, with the SHA-256 that each must have."""
    pattern = re.compile(r"([A-Za-z0-9_]+)==(\S+)\s+--hash=sha256:([0-9a-f]{64})")
    entries = pattern.findall((root / "requirements" / "data.lock").read_text())
    return [(root / WHEELS / f"{name}-{version}-py3-none-any.whl", digest) for name, version, digest in entries]


def sha256(path: Path) -> str:
    """Hash a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choose_accelerator(*, asked: str, root: Path) -> str:
    """Settle on "cpu" or "gpu": what was asked for, else what the environments were made for, else what is found."""
    if asked != "auto":
        return asked
    found = "gpu" if find_gpus() else "cpu"
    return str(read_stamp(root / TRAIN).get("accelerator", found))


def choose_extras(*, asked: list[str], root: Path) -> list[str]:
    """Settle on the extras of .venv: those that were asked for and those that it has."""
    return [extra for extra in EXTRAS if extra in asked or extra in read_stamp(root / TRAIN).get("extras", [])]
