from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
check_locks: Any = importlib.import_module("check_locks")
make_locks: Any = importlib.import_module("make_locks")


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "requirements", tmp_path / "requirements"))


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_committed_locks_are_sound() -> None:
    assert check_locks.check(ROOT / "requirements") == []


@pytest.mark.parametrize("slipped", ["nvidia-cublas==13.1.1.3", "triton==3.7.1", "onnxruntime-gpu==1.31.1"])
@pytest.mark.parametrize("lock", ["cpu", "triton-cpu", "spark", "scann"])
def test_a_gpu_package_in_a_cpu_lock_is_refused(requirements: Path, lock: str, slipped: str) -> None:
    path = requirements / f"{lock}.lock"
    path.write_text(path.read_text() + f"{slipped}\n")
    problems = check_locks.check(requirements)
    assert [
        problem for problem in problems if slipped.split("==")[0] in problem and "slipped into a CPU lock" in problem
    ]


def test_the_wheel_that_carries_triton_may_stand_in_a_cpu_lock(requirements: Path) -> None:
    assert "nvidia-pytriton==" in (requirements / "triton-cpu.lock").read_text()
    assert check_locks.check(requirements) == []


@pytest.mark.parametrize("lock", ["cpu", "gpu", "triton-cpu", "triton-gpu", "spark", "scann"])
def test_torch_stands_in_no_lock(requirements: Path, lock: str) -> None:
    path = requirements / f"{lock}.lock"
    path.write_text(path.read_text() + "torch==2.13.0\n")
    assert any("torch is in no lock" in problem for problem in check_locks.check(requirements))


def test_a_requirement_that_the_lock_lacks_is_named(requirements: Path) -> None:
    replace(requirements / "train.in", "rich\n", "rich\nno-such-package>=1\n")
    problems = check_locks.check(requirements)
    assert len(problems) == 2  # cpu.in and gpu.in both include train.in
    assert "cpu.in asks for no-such-package>=1, which is absent" in problems[0]
    assert "make locks" in problems[0]


def test_a_lock_that_violates_its_requirement_is_named_with_both_versions(requirements: Path) -> None:
    replace(requirements / "triton-cpu.lock", "numpy==1.26.4", "numpy==2.4.6")
    problems = check_locks.check(requirements)
    assert any("asks for numpy<2,>=1.26.4, got 2.4.6" in problem for problem in problems)


@pytest.mark.parametrize(
    "line", ["rich @ file:///tmp/rich.whl", "-e /work", "rich>=15", "torchmetrics==1.9.0+cpu", "rich==15.0.0 --hash=x"]
)
def test_a_line_that_is_not_plain_is_refused(requirements: Path, line: str) -> None:
    path = requirements / "triton-cpu.lock"
    path.write_text(path.read_text() + line + "\n")
    assert any("expected a plain name==version" in problem for problem in check_locks.check(requirements))


def test_one_package_listed_twice_is_refused(requirements: Path) -> None:
    path = requirements / "cpu.lock"
    path.write_text(path.read_text() + "Type_Guard==1.0\ntypeguard==4.6.0\n")
    assert any("typeguard is listed twice" in problem for problem in check_locks.check(requirements))


def test_cpu_and_gpu_hold_shared_packages_in_one_version(requirements: Path) -> None:
    replace(requirements / "gpu.lock", "scipy==1.17.1", "scipy==1.17.0")
    assert any(problem.startswith("scipy: cpu.lock holds 1.17.1") for problem in check_locks.check(requirements))


@pytest.mark.parametrize("base", ["cpu", "gpu"])
def test_an_extra_changes_no_version_of_the_lock_below_it(requirements: Path, base: str) -> None:
    path = requirements / f"{base}.lock"
    path.write_text(path.read_text() + "py4j==0.10.9.7\n")
    problems = check_locks.check(requirements)
    assert any(problem.startswith(f"py4j: {base}.lock holds 0.10.9.7, spark.lock holds") for problem in problems)


def test_what_an_extra_asks_for_may_stand_in_the_lock_below_it(requirements: Path) -> None:
    replace(requirements / "spark.in", "ibis-framework[pyspark]==12.0.0", "ibis-framework[pyspark]==12.0.1")
    (problem,) = check_locks.check(requirements)
    assert "spark.lock: spark.in asks for ibis-framework[pyspark]==12.0.1, got 12.0.0" in problem
    replace(requirements / "spark.in", "ibis-framework[pyspark]==12.0.1", "no-such-package")
    (problem,) = check_locks.check(requirements)
    assert "spark.in asks for no-such-package, which is absent" in problem


@pytest.mark.parametrize(("lock", "package"), [("spark", "pyspark"), ("scann", "scann")])
def test_a_lock_of_an_extra_holds_nothing_that_the_lock_below_it_holds(lock: str, package: str) -> None:
    below, _ = check_locks.read_lock(ROOT / "requirements" / "cpu.lock")
    extra, _ = check_locks.read_lock(ROOT / "requirements" / f"{lock}.lock")
    assert package in extra
    assert set(extra) & set(below) == set()


def test_both_environments_hold_one_onnxruntime(requirements: Path) -> None:
    replace(requirements / "triton-cpu.lock", "onnxruntime==1.31.1", "onnxruntime==1.30.0")
    problems = check_locks.check(requirements)
    assert any(problem.startswith("onnxruntime: cpu.lock holds 1.31.1, triton-cpu.lock") for problem in problems)


def test_a_missing_lock_is_one_problem_with_its_mend(requirements: Path) -> None:
    (requirements / "triton-gpu.lock").unlink()
    problems = check_locks.check(requirements)
    assert problems == ["triton-gpu.lock: missing; edit the .in files and run `make locks`"]


def test_remaking_keeps_a_locked_version_unless_its_requirement_changed(requirements: Path) -> None:
    made = {"triton-cpu": {"numpy": check_locks.Version("1.26.4"), "rich": check_locks.Version("15.0.0")}}
    keep = make_locks.constraints(lock="triton-cpu", made=made, requirements=requirements)
    assert set(keep) == {"numpy", "rich"}
    replace(requirements / "triton.in", "numpy>=1.26.4,<2", "numpy>=1.26.5,<2")
    keep = make_locks.constraints(lock="triton-cpu", made=made, requirements=requirements)
    assert set(keep) == {"rich"}


def test_an_extra_keeps_the_versions_of_the_cpu_lock_even_against_its_own_requirement(requirements: Path) -> None:
    cpu = {"ibis-framework": check_locks.Version("12.0.0"), "py4j": check_locks.Version("0.10.9.9")}
    spark = {"py4j": check_locks.Version("0.10.9.7"), "pyspark": check_locks.Version("4.0.5")}
    replace(requirements / "spark.in", "ibis-framework[pyspark]==12.0.0", "ibis-framework[pyspark]>=13")
    replace(requirements / "spark.in", "pyspark>=4,<5", "pyspark>=4.1,<5")
    keep = make_locks.constraints(lock="spark", made={"cpu": cpu, "spark": spark}, requirements=requirements)
    assert {name: str(version) for name, version in keep.items()} == {"ibis-framework": "12.0.0", "py4j": "0.10.9.9"}


def test_a_gpu_lock_takes_the_versions_of_the_cpu_lock() -> None:
    cpu = {"scipy": check_locks.Version("1.17.1")}
    gpu = {"scipy": check_locks.Version("1.17.0"), "faiss-gpu": check_locks.Version("1.15.1")}
    keep = make_locks.constraints(lock="gpu", made={"cpu": cpu, "gpu": gpu}, requirements=ROOT / "requirements")
    assert {name: str(version) for name, version in keep.items()} == {"scipy": "1.17.1", "faiss-gpu": "1.15.1"}
