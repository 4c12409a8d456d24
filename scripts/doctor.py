"""Say what this machine has, what the project will use of it, and what is missing with the command that mends it.

Standard library only and any Python from 3.8 on, because it runs before set-up. Reads and reports; changes nothing and
asks no network. Exit status 0 if the demo can run, 1 otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import (
    ASK_ENVIRONMENT,
    ASK_PYTHON,
    ROOT,
    SUPPORTED_PYTHONS,
    TRAIN,
    TRITON,
    ask,
    canonical,
    choose_accelerator,
    choose_extras,
    data_wheels,
    find_gpus,
    lock_versions,
    read_stamp,
    sha256,
)

GIB = 1024**3
SETUP_DISK_BYTES = {"cpu": 6 * GIB, "gpu": 20 * GIB}  # cpu: 3.0 GB and pip's downloads; gpu: a guess, CUDA is large
RUN_DISK_BYTES = 1 * GIB
DEMO_MEMORY_BYTES = 4 * 10**9
TRITON_GLIBC = (2, 35)  # nvidia-pytriton 0.7.0 is tagged manylinux_2_35: pip refuses it on an older glibc
PYSPARK, FIRST_JAVA = 4, 17  # what features/spark_installed.py takes
TRAIN_SHOWN = ("torch", "pytorch-lightning", "numpy", "mlflow", "feast")
TRITON_SHOWN = ("nvidia-pytriton", "numpy", "onnxruntime", "onnxruntime-gpu")

OK, NOTE, MISSING = "ok", "note", "MISSING"  # a note does not stop the demo


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was found or will be used, and the command that mends it."""

    group: str
    name: str
    status: str
    found: str
    mend: str = ""


def first_number(path: str) -> int | None:
    """Read the first number of a file of the kernel's; None where there is none ("max")."""
    try:
        digits = re.search(r"\d+", Path(path).read_text().split("\n")[0].split(" ")[0])
    except OSError:
        return None
    return int(digits.group()) if digits else None


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less where a container limits it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = first_number(path)
        limits += [limit] if limit else []
    return min(limits)


def check_platform(*, machine: str, system: str, glibc: str) -> Check:
    """Judge the processor and the C library, which decide whether Triton's wheel can be installed."""
    found = f"{system} {machine}, glibc {glibc or 'not found'}"
    numbers = tuple(int(part) for part in re.findall(r"\d+", glibc)[:2])
    if system == "Linux" and machine == "x86_64" and numbers >= TRITON_GLIBC:
        return Check("machine", "platform", OK, found)
    wanted = f"Linux x86_64 with glibc {TRITON_GLIBC[0]}.{TRITON_GLIBC[1]} or newer"
    mend = (
        f"Triton's wheel needs {wanted} (Debian 12, Ubuntu 22.04). Without it: `make setup SIDES=train`, then "
        "`.venv/bin/python scripts/run_pipeline.py serving.mode=inprocess`"
    )
    return Check("machine", "platform", MISSING, found, mend)


def check_memory(total_bytes: int) -> Check:
    """Judge the memory against what the demo takes at most."""
    found = f"{total_bytes / GIB:.1f} GiB"
    if total_bytes >= DEMO_MEMORY_BYTES:
        return Check("machine", "memory", OK, found)
    return Check("machine", "memory", MISSING, found, "the demo takes up to 4 GB: give the machine or container more")


def check_disk(*, free_bytes: int, accelerator: str, environments_exist: bool) -> Check:
    """Judge the free space where the project lies."""
    needed = RUN_DISK_BYTES if environments_exist else SETUP_DISK_BYTES[accelerator]
    found = f"{free_bytes / GIB:.0f} GiB free, {needed / GIB:.0f} GiB needed"
    mend = "" if free_bytes >= needed else "free some space, or clone the project onto a larger disk"
    return Check("machine", "disk", MISSING if mend else OK, found, mend)


def check_cores(cores: int) -> Check:
    """Judge the number of cores: fewer than two only takes longer."""
    if cores >= 2:
        return Check("machine", "cores", OK, str(cores))
    return Check("machine", "cores", NOTE, str(cores), "the demo's 10 minutes are for two cores; expect longer")


def check_openmp() -> Check:
    """Look for libgomp, which LightGBM's wheel takes from the system."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return Check("machine", "libgomp", MISSING, "LightGBM cannot load without it", "apt-get install libgomp1")
    return Check("machine", "libgomp", OK, "libgomp.so.1")


def check_gpu(*, gpus: list[str], accelerator: str) -> Check:
    """Compare the GPUs that the driver shows with what the environments were, or will be, made for."""
    found = "; ".join(gpus) if gpus else "no NVIDIA GPU (nvidia-smi lists none)"
    if gpus and accelerator == "cpu":
        return Check("machine", "gpu", NOTE, f"{found}, not used", "make setup ACCELERATOR=gpu")
    if accelerator == "gpu" and not gpus:
        return Check("machine", "gpu", MISSING, f"{found}, but set up for one", "make setup ACCELERATOR=cpu")
    return Check("machine", "gpu", OK, found)


def check_python(*, command: str, answer: dict[str, Any] | None) -> Check:
    """Judge the Python that the environments will be made from."""
    wanted = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHONS)
    mend = f"apt-get install python3.11 python3.11-venv, or name another: make demo PYTHON=/path/to/python ({wanted})"
    if answer is None:
        return Check("python", "python", MISSING, f"{command} does not run", mend)
    version = ".".join(str(part) for part in answer["version"])
    if tuple(answer["version"][:2]) not in SUPPORTED_PYTHONS:
        return Check("python", "python", MISSING, f"{command} is {version}, needed {wanted}", mend)
    if not answer["venv"]:
        package = "python{}.{}-venv".format(*answer["version"][:2])
        found = f"{command} is {version} but cannot make environments"
        return Check("python", "python", MISSING, found, f"apt-get install {package}")
    return Check("python", "python", OK, f"{command} is {version}")


def check_libpython(answer: dict[str, Any] | None) -> Check:
    """Look for the shared library that Triton's Python stub links."""
    if answer is None:
        return Check("python", "libpython", NOTE, "unknown, because that Python does not run")
    name = "libpython{}.{}.so.1.0".format(*answer["version"][:2])
    paths = [Path(folder) / name for folder in answer["folders"] if folder and (Path(folder) / name).exists()]
    if paths:
        return Check("python", "libpython", OK, str(paths[0]))
    try:
        ctypes.CDLL(name)
    except OSError:
        mend = (
            f"apt-get install lib{name[3:].split('.so')[0]}, or use a Python built with --enable-shared; until then "
            "serve without Triton: scripts/run_pipeline.py serving.mode=inprocess"
        )
        return Check("python", "libpython", NOTE, f"{name} not found: Triton's Python stub cannot start", mend)
    return Check("python", "libpython", OK, name)


def check_environment(
    *, environment: Path, lock: Path, shown: tuple[str, ...], extras: tuple[str, ...] = ()
) -> list[Check]:
    """Compare what an environment holds with its lock and its extras'; for .venv-triton, numpy and the binary too."""
    name = environment.name
    locks = [lock, *(lock.with_name(f"{extra}.lock") for extra in extras)]
    names = " and ".join(path.name for path in locks)
    if not environment.exists():
        return [Check("environments", name, NOTE, "not there yet", "make setup (make demo does it too)")]
    answer = ask(str(environment / "bin" / "python"), ASK_ENVIRONMENT)
    if answer is None or not read_stamp(environment):
        return [Check("environments", name, NOTE, "set-up was not finished", "make setup (it starts this one anew)")]
    held = {canonical(package): version for package, version in answer["packages"].items()}
    wrong = [
        f"{package} {held.get(package, 'absent')} (locked: {version})"
        for path in locks
        for package, version in lock_versions(path).items()
        if held.get(package) != version
    ]
    anew = f"rm -rf {name} && make setup" + (f" EXTRAS={','.join(extras)}" if extras else "")
    if wrong:
        rest = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return [Check("environments", name, MISSING, f"differs from {names}: {', '.join(wrong[:3])}{rest}", anew)]
    versions = ", ".join(f"{package} {held[package]}" for package in shown if package in held)
    checks = [Check("environments", name, OK, f"as {names}: {versions}")]
    if "nvidia-pytriton" in lock_versions(lock):
        checks.append(check_triton(site=Path(answer["site"]), version=answer["version"], numpy=held.get("numpy", "")))
    return checks


def check_triton(*, site: Path, version: list[int], numpy: str) -> Check:
    """Look for the server's binary and the stub of the running Python inside the wheel."""
    anew = "rm -rf .venv-triton && make setup"
    if not numpy.startswith("1."):
        found = f"numpy {numpy or 'absent'}: this Triton's Python stub corrupts arrays of numpy 2"
        return Check("environments", "triton", MISSING, found, anew)
    server = site / "pytriton" / "tritonserver"
    needed = (
        server / "bin" / "tritonserver",
        server / "python_backend_stubs" / ".".join(str(part) for part in version),
    )
    for path in needed:
        if not path.exists():
            return Check("environments", "triton", MISSING, f"{path} is not in the wheel nvidia-pytriton", anew)
    return Check("environments", "triton", OK, str(needed[0]))


def check_wheel(*, path: Path, digest: str) -> Check:
    """Judge one data wheel by its hash."""
    name = path.name.partition("-")[0]
    if not path.exists():
        return Check("data", name, NOTE, "not there yet", "make setup (make demo does it too)")
    if sha256(path) != digest:
        found = f"SHA-256 {sha256(path)[:12]}..., expected {digest[:12]}..."
        return Check("data", name, NOTE, found, "make setup (it is downloaded anew)")
    return Check("data", name, OK, str(path))


def check_optional(*, program: str, used_for: str, package: str) -> Check:
    """Look for a program that only an option needs."""
    path = shutil.which(program)
    if path:
        return Check("optional", program, OK, f"{path}, for {used_for}")
    return Check("optional", program, NOTE, f"absent; only for {used_for}", f"apt-get install {package}")


def installed(environment: Path, package: str) -> str:
    """Version of a package in an environment; empty where it is not there."""
    answer = ask(str(environment / "bin" / "python"), ASK_ENVIRONMENT)
    return str((answer or {"packages": {}})["packages"].get(package, ""))


def check_scann(environment: Path) -> Check:
    """Look for ScaNN in .venv, which only an extra brings there."""
    found = installed(environment, "scann")
    if found:
        return Check("optional", "scann", OK, f"{found}, for index=scann")
    return Check(
        "optional", "scann", NOTE, f"not in {environment.name}; only for index=scann", "make setup EXTRAS=scann"
    )


def check_pyspark(environment: Path) -> Check:
    """Look for PySpark in .venv, which only an extra brings there."""
    found = installed(environment, "pyspark")
    if found.startswith(f"{PYSPARK}."):
        return Check("optional", "pyspark", OK, f"{found}, for the ETL on Spark")
    state = f"{found}, needed {PYSPARK}" if found else f"not in {environment.name}"
    return Check("optional", "pyspark", NOTE, f"{state}; only for the ETL on Spark", "make setup EXTRAS=spark")


def check_java(home: str) -> Check:
    """Look for the Java that Spark would start: JAVA_HOME's where that is set, else the one on PATH."""
    mend = f"apt-get install openjdk-{FIRST_JAVA}-jre-headless, or set JAVA_HOME to such a one"
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java is None:
        return Check("optional", "java", NOTE, "absent; only for the ETL on Spark", mend)
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("optional", "java", NOTE, f"{java} does not run ({error}); only for the ETL on Spark", mend)
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    if version is None or int(version[1]) < FIRST_JAVA:
        found = f"{java} is {version[1] if version else 'of no version'}, needed {FIRST_JAVA}"
        return Check("optional", "java", NOTE, f"{found}; only for the ETL on Spark", mend)
    return Check("optional", "java", OK, f"{java}, Java {version[1]}, for the ETL on Spark")


def examine(*, root: Path, python: str, accelerator: str) -> list[Check]:
    """Make every check."""
    train, triton = root / TRAIN, root / TRITON
    answer = ask(python, ASK_PYTHON)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    locks = root / "requirements"
    checks = [
        check_platform(machine=platform.machine(), system=platform.system(), glibc=platform.libc_ver()[1]),
        check_cores(cores),
        check_memory(memory_bytes()),
        check_disk(
            free_bytes=shutil.disk_usage(str(root)).free,
            accelerator=accelerator,
            environments_exist=train.exists() and triton.exists(),
        ),
        check_openmp(),
        check_gpu(gpus=find_gpus(), accelerator=accelerator),
        check_python(command=python, answer=answer),
        check_libpython(answer),
    ]
    extras = tuple(choose_extras(asked=[], root=root))
    lock = locks / f"{accelerator}.lock"
    checks += check_environment(environment=train, lock=lock, shown=TRAIN_SHOWN, extras=extras)
    checks += check_environment(environment=triton, lock=locks / f"triton-{accelerator}.lock", shown=TRITON_SHOWN)
    checks += [check_wheel(path=path, digest=digest) for path, digest in data_wheels(root)]
    checks += [check_pyspark(train), check_java(os.environ.get("JAVA_HOME", "")), check_scann(train)]
    checks.append(check_optional(program="redis-server", used_for="an online store on Redis", package="redis-server"))
    return checks


def describe(*, checks: list[Check], accelerator: str, root: Path) -> str:
    """Lay the findings out for a reader."""
    lines = [f"twostage doctor, {root}"]
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines.append(f"\n{group}")
        lines.append(f"  {check.status:<8} {check.name:<14} {check.found}")
        lines += [f"  {'':<8} {'':<14} -> {check.mend}"] if check.mend else []
    missing = [check.name for check in checks if check.status == MISSING]
    lines.append(f"\nwill use: {accelerator}, requirements/{accelerator}.lock and triton-{accelerator}.lock")
    lines.append(f"missing: {', '.join(missing)}" if missing else "missing: nothing; the demo can run (make demo)")
    return "\n".join(lines)


def main() -> int:
    """Report, as text or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--python", default=os.environ.get("PYTHON") or "python3.11", help="the Python of set-up")
    parser.add_argument(
        "--accelerator", default=os.environ.get("ACCELERATOR") or "auto", choices=("auto", "cpu", "gpu")
    )
    arguments = parser.parse_args()
    accelerator = choose_accelerator(asked=arguments.accelerator, root=ROOT)
    checks = examine(root=ROOT, python=arguments.python, accelerator=accelerator)
    demo_can_run = all(check.status != MISSING for check in checks)
    if arguments.json:
        findings = [asdict(check) for check in checks]
        print(json.dumps({"demo_can_run": demo_can_run, "accelerator": accelerator, "checks": findings}, indent=2))
    else:
        print(describe(checks=checks, accelerator=accelerator, root=ROOT))
    return 0 if demo_can_run else 1


if __name__ == "__main__":
    sys.exit(main())
