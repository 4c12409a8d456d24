"""Remake requirements/*.lock from requirements/*.in (`make locks`).

pip resolves without installing and, where the index publishes metadata apart from wheels, without downloading.
Whatever the .in files still allow keeps its version; `make locks UPGRADE=1` takes the newest instead. The lock of an
extra holds what it adds to the CPU lock, whose versions it cannot change. All files are replaced or none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from check_locks import CPU_LOCKS, LOCKS, REQUIREMENTS, is_accelerator_package, read_lock, read_requirements
from environments import EXTRAS
from packaging.utils import canonicalize_name
from packaging.version import Version

PIP = "pip==26.3"  # before 23.3 a dry run downloads every wheel
# What a lock keeps versions of: itself, and for GPU locks the CPU lock, so that the two differ by their wheels alone.
KEEP = {"cpu": ["cpu"], "gpu": ["gpu", "cpu"], "triton-cpu": ["triton-cpu"], "triton-gpu": ["triton-gpu", "triton-cpu"]}
KEEP |= {extra: [extra, "cpu"] for extra in EXTRAS}
HEADER = "# Made from {lock}.in by `make locks`, Python {python} on Linux x86-64. Do not edit.\n"
NEVER_RUN = "# Resolved from the packages' metadata; never installed or run: no NVIDIA GPU was at hand.\n"


def constraints(*, lock: str, made: dict[str, dict[str, Version]], requirements: Path) -> dict[str, Version]:
    """Choose the versions to keep: of the locks in `made`, where the .in files still allow them."""
    versions: dict[str, Version] = {}
    for source in KEEP[lock]:
        versions.update(made.get(source, {}))
    fixed = made["cpu"] if lock in EXTRAS else {}  # an extra that contradicts its base is an error of pip's
    for requirement in read_requirements(requirements / f"{lock}.in"):
        name = canonicalize_name(requirement.name)
        allowed = name not in versions or requirement.specifier.contains(versions[name], prereleases=True)
        if not allowed and name not in fixed:
            del versions[name]
    return versions


def resolve(
    *, python: Path, lock: str, keep: dict[str, Version], base: dict[str, Version], folder: Path
) -> dict[str, Version]:
    """Have pip resolve one .in file, together with torch where that belongs to it; leave out what `base` holds."""
    report = folder / f"{lock}.json"
    constraint_file = folder / f"{lock}.constraints"
    constraint_file.write_text("".join(f"{name}=={version}\n" for name, version in keep.items()))
    sources = [f"{lock}.in", "torch.in"] if lock in ("cpu", "gpu") else [f"{lock}.in"]
    command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", str(report), "--constraint", str(constraint_file)]
    for source in sources:
        command += ["--requirement", str(REQUIREMENTS / source)]
    environment = dict(os.environ)
    if lock == "gpu":
        # A CPU build of torch in a local wheel folder sorts above the index's CUDA build, and names no CUDA library.
        environment |= {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(command, check=True, env=environment)
    found = {
        canonicalize_name(entry["metadata"]["name"]): Version(entry["metadata"]["version"])
        for entry in json.loads(report.read_text())["install"]
    }
    left_out = {"torch", *base} & set(found)
    if lock in CPU_LOCKS:
        asked = {canonicalize_name(requirement.name) for requirement in read_requirements(REQUIREMENTS / f"{lock}.in")}
        left_out |= {name for name in found if is_accelerator_package(name) and name not in asked}
    return {name: version for name, version in sorted(found.items()) if name not in left_out}


def main() -> None:
    """Resolve every lock, then write them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the .in files allow")
    arguments = parser.parse_args()
    made: dict[str, dict[str, Version]] = {}
    if not arguments.upgrade:
        existing = [lock for lock in LOCKS if (REQUIREMENTS / f"{lock}.lock").exists()]
        made = {lock: read_lock(REQUIREMENTS / f"{lock}.lock")[0] for lock in existing}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PIP], check=True)
        for lock in sorted(LOCKS, key=lambda lock: lock not in CPU_LOCKS):  # the GPU locks follow the CPU ones
            print(f"resolving {lock}.in", flush=True)
            keep = constraints(lock=lock, made=made, requirements=REQUIREMENTS)
            base = made["cpu"] if lock in EXTRAS else {}
            made[lock] = resolve(python=python, lock=lock, keep=keep, base=base, folder=folder)
    for lock in LOCKS:
        header = HEADER.format(lock=lock, python=f"{sys.version_info[0]}.{sys.version_info[1]}")
        header += "" if lock in CPU_LOCKS else NEVER_RUN
        lines = "".join(f"{package}=={version}\n" for package, version in made[lock].items())
        (REQUIREMENTS / f"{lock}.lock").write_text(header + lines)
        print(f"requirements/{lock}.lock: {len(made[lock])} packages")


if __name__ == "__main__":
    main()
