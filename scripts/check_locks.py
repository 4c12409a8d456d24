"""Check that requirements/*.lock say what requirements/*.in ask for, and that no CPU lock brings a GPU.

Owns the rules that a lock file obeys. Knows nothing of indexes: scripts/make_locks.py makes the files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from environments import EXTRAS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
LOCKS = ("cpu", "gpu", "triton-cpu", "triton-gpu", *EXTRAS)  # <name>.lock is made from <name>.in
CPU_LOCKS = ("cpu", "triton-cpu", *EXTRAS)  # installed where no GPU is
# Whatever both hold is held in one version. An extra is installed on top of either lock of .venv.
SAME_VERSIONS = (
    *(("cpu", "gpu"), ("triton-cpu", "triton-gpu")),
    *((base, extra) for extra in EXTRAS for base in ("cpu", "gpu")),
)
# What .venv writes (ONNX files, indexes, tokenizers) .venv-triton reads, with the same release of the same library.
SAME_LIBRARIES = (
    ("cpu", "triton-cpu", ("faiss-cpu", "onnxruntime", "tokenizers")),
    ("gpu", "triton-gpu", ("faiss-gpu", "onnxruntime-gpu", "tokenizers")),
)
PLAIN_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[0-9][A-Za-z0-9.!]*)")
TORCH = re.compile(r"torch|torchvision|torchaudio|triton")
CUDA = re.compile(r"(nvidia|cuda)-.*|.*-(gpu|cu\d\d)")
MEND = "edit the .in files and run `make locks`"


def read_requirements(path: Path) -> list[Requirement]:
    """Read a .in file and the files that it includes with -r."""
    requirements: list[Requirement] = []
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            requirements += read_requirements(path.parent / text[3:].strip())
        elif text:
            requirements.append(Requirement(text))
    return requirements


def read_lock(path: Path) -> tuple[dict[str, Version], list[str]]:
    """Read a lock file: version by canonical name, and what is wrong with its lines."""
    versions: dict[str, Version] = {}
    problems: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        plain = PLAIN_LINE.fullmatch(text)
        if plain is None:
            problems.append(f"{path.name}:{number}: expected a plain name==version, got {text!r}; {MEND}")
            continue
        name = canonicalize_name(plain["name"])
        if name in versions:
            problems.append(f"{path.name}:{number}: {name} is listed twice; {MEND}")
        versions[name] = Version(plain["version"])
    return versions, problems


def is_accelerator_package(name: str) -> bool:
    """Tell whether a package belongs to torch's or NVIDIA's builds, which a CPU lock must not name."""
    return bool(TORCH.fullmatch(name) or CUDA.fullmatch(name))


def check_one(
    *, lock: str, versions: dict[str, Version], base: dict[str, Version], requirements: list[Requirement]
) -> list[str]:
    """Check one lock against what it was made from; `base` is what lies below an extra."""
    problems: list[str] = []
    asked = {canonicalize_name(requirement.name) for requirement in requirements}
    for requirement in requirements:
        held = {**base, **versions}.get(canonicalize_name(requirement.name))
        if held is None:
            problems.append(f"{lock}.lock: {lock}.in asks for {requirement}, which is absent; {MEND}")
        elif not requirement.specifier.contains(held, prereleases=True):
            problems.append(f"{lock}.lock: {lock}.in asks for {requirement}, got {held}; {MEND}")
    for name in versions:
        if name == "torch":
            problems.append(f"{lock}.lock: torch is in no lock, its wheels differ by index (torch.in); {MEND}")
        elif lock in CPU_LOCKS and is_accelerator_package(name) and name not in asked:
            problems.append(f"{lock}.lock: {name} slipped into a CPU lock, no .in file asks for it; {MEND}")
    return problems


def check(directory: Path) -> list[str]:
    """Check every lock file in a directory.

    Returns:
        One sentence a problem; empty when all is well.
    """
    problems: list[str] = []
    locks: dict[str, dict[str, Version]] = {}
    for lock in LOCKS:
        path = directory / f"{lock}.lock"
        if not path.exists():
            problems.append(f"{path.name}: missing; {MEND}")
            continue
        locks[lock], wrong_lines = read_lock(path)
        problems += wrong_lines
        requirements = read_requirements(path.with_suffix(".in"))
        base = locks.get("cpu", {}) if lock in EXTRAS else {}
        problems += check_one(lock=lock, versions=locks[lock], base=base, requirements=requirements)
    shared = [(a, b, set(locks.get(a, {})) & set(locks.get(b, {}))) for a, b in SAME_VERSIONS]
    shared += [(a, b, set(names)) for a, b, names in SAME_LIBRARIES if a in locks and b in locks]
    for first, second, names in shared:
        for name in sorted(names):
            one, other = locks[first].get(name), locks[second].get(name)
            if one != other:
                problems.append(f"{name}: {first}.lock holds {one}, {second}.lock holds {other}; {MEND}")
    return problems


def main() -> None:
    """Print what is wrong; exit with 1 if anything is."""
    problems = check(REQUIREMENTS)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"locks: {len(LOCKS)} files agree with their .in files")


if __name__ == "__main__":
    main()
