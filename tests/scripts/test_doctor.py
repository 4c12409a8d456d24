from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import venv
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from features.errors import EngineUnusable
from features.spark_installed import FIRST_JAVA, SPARK, check_java

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
doctor: Any = importlib.import_module("doctor")
environments: Any = importlib.import_module("environments")


def run_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "doctor.py"), *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables)


def test_json_says_whether_the_demo_can_run_and_the_exit_status_agrees() -> None:
    answer = run_doctor("--json")
    report = json.loads(answer.stdout)
    missing = [check["name"] for check in report["checks"] if check["status"] == "MISSING"]
    assert report["demo_can_run"] is (missing == [])
    assert answer.returncode == (0 if report["demo_can_run"] else 1)
    groups = {check["group"] for check in report["checks"]}
    assert groups == {"machine", "python", "environments", "data", "optional"}


def test_the_text_ends_with_what_will_be_used_and_what_is_missing() -> None:
    lines = run_doctor("--accelerator", "cpu").stdout.splitlines()
    assert lines[-2] == "will use: cpu, requirements/cpu.lock and triton-cpu.lock"
    assert lines[-1].startswith("missing: ")


def test_a_python_that_does_not_run_stops_the_demo_and_says_how_to_name_another() -> None:
    answer = run_doctor(PYTHON="/nowhere/python3.11")
    assert answer.returncode == 1
    assert "/nowhere/python3.11 does not run" in answer.stdout
    assert "make demo PYTHON=" in answer.stdout


def test_whatever_is_missing_comes_with_its_mend() -> None:
    for check in json.loads(run_doctor("--json", PYTHON="/nowhere/python3.11").stdout)["checks"]:
        assert check["status"] != "MISSING" or check["mend"]


@pytest.mark.parametrize(
    ("machine", "system", "glibc", "status"),
    [
        ("x86_64", "Linux", "2.36", "ok"),
        ("x86_64", "Linux", "2.35", "ok"),
        ("x86_64", "Linux", "2.34", "MISSING"),
        ("aarch64", "Linux", "2.39", "MISSING"),
        ("x86_64", "Linux", "", "MISSING"),  # musl
        ("arm64", "Darwin", "", "MISSING"),
    ],
)
def test_triton_needs_linux_x86_64_and_a_glibc_that_takes_its_wheel(
    machine: str, system: str, glibc: str, status: str
) -> None:
    check = doctor.check_platform(machine=machine, system=system, glibc=glibc)
    assert check.status == status
    assert ("serving.mode=inprocess" in check.mend) is (status == "MISSING")


def test_memory_and_disk_are_judged_by_what_the_next_command_takes() -> None:
    assert doctor.check_memory(4 * 10**9).status == "ok"
    assert doctor.check_memory(3 * 10**9).status == "MISSING"
    assert doctor.check_disk(free_bytes=2 * doctor.GIB, accelerator="cpu", environments_exist=True).status == "ok"
    assert doctor.check_disk(free_bytes=2 * doctor.GIB, accelerator="cpu", environments_exist=False).status == "MISSING"


def test_one_core_is_a_note_that_does_not_stop_the_demo() -> None:
    assert doctor.check_cores(2).status == "ok"
    assert doctor.check_cores(1).status == "note"


@pytest.mark.parametrize(
    ("gpus", "accelerator", "status", "mend"),
    [
        ([], "cpu", "ok", ""),
        (["GPU 0: some card"], "gpu", "ok", ""),
        (["GPU 0: some card"], "cpu", "note", "make setup ACCELERATOR=gpu"),
        ([], "gpu", "MISSING", "make setup ACCELERATOR=cpu"),
    ],
)
def test_the_gpu_is_compared_with_what_the_environments_are_for(
    gpus: list[str], accelerator: str, status: str, mend: str
) -> None:
    check = doctor.check_gpu(gpus=gpus, accelerator=accelerator)
    assert (check.status, check.mend) == (status, mend)


@pytest.mark.parametrize(
    ("version", "has_venv", "status"),
    [([3, 11, 7], True, "ok"), ([3, 10, 1], True, "MISSING"), ([3, 12, 0], False, "MISSING")],
)
def test_the_python_of_set_up_must_be_supported_and_make_environments(
    version: list[int], has_venv: bool, status: str
) -> None:
    answer = {"version": version, "venv": has_venv, "folders": []}
    assert doctor.check_python(command="python3", answer=answer).status == status


def test_a_missing_libpython_is_a_note_because_serving_in_process_works_without_it() -> None:
    check = doctor.check_libpython({"version": [3, 99, 0], "folders": ["/nowhere"]})
    assert check.status == "note"
    assert "libpython3.99.so.1.0 not found" in check.found
    assert "serving.mode=inprocess" in check.mend


def make_environment(folder: Path, *, packages: dict[str, str], finished: bool) -> Path:
    environment = folder / ".venv-triton"
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python3.*/site-packages")
    for name, version in packages.items():
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    if finished:
        (environment / environments.STAMP).write_text('{"accelerator": "cpu"}')
    return environment


def check_environment(folder: Path, *, lock: str, packages: dict[str, str], finished: bool = True) -> list[Any]:
    (folder / "triton-cpu.lock").write_text(lock)
    environment = make_environment(folder, packages=packages, finished=finished)
    shown = ("numpy",)
    return list(doctor.check_environment(environment=environment, lock=folder / "triton-cpu.lock", shown=shown))


def test_an_environment_as_its_lock_says_is_shown_with_its_versions(tmp_path: Path) -> None:
    (check,) = check_environment(tmp_path, lock="numpy==1.26.4\n", packages={"numpy": "1.26.4"})
    assert (check.status, check.found) == ("ok", "as triton-cpu.lock: numpy 1.26.4")


def test_an_environment_that_differs_from_its_lock_names_the_package(tmp_path: Path) -> None:
    (check,) = check_environment(tmp_path, lock="numpy==1.26.4\nsix==1.17.0\n", packages={"numpy": "2.4.6"})
    assert check.status == "MISSING"
    assert "numpy 2.4.6 (locked: 1.26.4), six absent (locked: 1.17.0)" in check.found
    assert check.mend == "rm -rf .venv-triton && make setup"


def test_an_environment_with_an_extra_is_compared_with_both_locks(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, packages={"numpy": "2.4.6", "pyspark": "4.0.5"}, finished=True)
    lock = tmp_path / "cpu.lock"
    lock.write_text("numpy==2.4.6\n")
    (tmp_path / "spark.lock").write_text("pyspark==4.0.5\n")
    arguments = {"environment": environment, "lock": lock, "shown": ("numpy",)}
    (plain,) = doctor.check_environment(**arguments)
    assert (plain.status, plain.found) == ("ok", "as cpu.lock: numpy 2.4.6")
    (both,) = doctor.check_environment(**arguments, extras=("spark",))
    assert (both.status, both.found) == ("ok", "as cpu.lock and spark.lock: numpy 2.4.6")
    (tmp_path / "spark.lock").write_text("pyspark==4.0.6\n")
    (older,) = doctor.check_environment(**arguments, extras=("spark",))
    assert older.found == "differs from cpu.lock and spark.lock: pyspark 4.0.5 (locked: 4.0.6)"
    assert older.mend == f"rm -rf {environment.name} && make setup EXTRAS=spark"


@pytest.mark.parametrize(
    ("packages", "status", "found"),
    [
        ({"pyspark": "4.0.5"}, "ok", "4.0.5, for the ETL on Spark"),
        ({"pyspark": "3.5.9"}, "note", "3.5.9, needed 4; only for the ETL on Spark"),
        ({}, "note", "not in .venv-triton; only for the ETL on Spark"),
    ],
)
def test_an_absent_or_older_pyspark_is_a_note(
    tmp_path: Path, packages: dict[str, str], status: str, found: str
) -> None:
    check = doctor.check_pyspark(make_environment(tmp_path, packages=packages, finished=True))
    assert (check.status, check.found) == (status, found)
    assert check.mend == ("" if status == "ok" else "make setup EXTRAS=spark")


@pytest.mark.parametrize(
    ("packages", "status", "found"),
    [({"scann": "1.4.2"}, "ok", "1.4.2, for index=scann"), ({}, "note", "not in .venv-triton; only for index=scann")],
)
def test_an_absent_scann_is_a_note(tmp_path: Path, packages: dict[str, str], status: str, found: str) -> None:
    check = doctor.check_scann(make_environment(tmp_path, packages=packages, finished=True))
    assert (check.status, check.found) == (status, found)
    assert check.mend == ("" if status == "ok" else "make setup EXTRAS=scann")


def test_pyspark_is_a_note_where_there_is_no_environment_yet(tmp_path: Path) -> None:
    assert doctor.check_pyspark(tmp_path / ".venv").found == "not in .venv; only for the ETL on Spark"


@pytest.mark.parametrize(
    ("said", "status", "found"),
    [
        ('echo openjdk version \\"17.0.15\\" 2025-04-15 >&2', "ok", "Java 17, for the ETL on Spark"),
        ('echo openjdk version \\"21\\" 2023-09-19 >&2', "ok", "Java 21, for the ETL on Spark"),
        ('echo openjdk version \\"11.0.22\\" 2024-01-16 >&2', "note", "is 11, needed 17"),
        ('echo java version \\"1.8.0_392\\" >&2', "note", "is 8, needed 17"),
        ("echo no such operation >&2", "note", "is of no version, needed 17"),
        ("exit 1", "note", "does not run"),
    ],
)
def test_doctor_judges_java_as_the_engine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: str, found: str
) -> None:
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text(f"#!/bin/sh\n{said}\n")
    java.chmod(0o755)
    check = doctor.check_java(str(tmp_path))
    assert check.status == status
    assert found in check.found
    assert str(java) in check.found
    assert ("openjdk-17-jre-headless" in check.mend) is (status == "note")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with nullcontext() if status == "ok" else pytest.raises(EngineUnusable):
        check_java()


def test_java_is_looked_for_on_the_path_where_no_java_home_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.check_java("")
    assert (check.status, check.found) == ("note", "absent; only for the ETL on Spark")


def test_doctor_and_the_engine_ask_for_the_same_versions() -> None:
    assert (doctor.PYSPARK, doctor.FIRST_JAVA) == (SPARK, FIRST_JAVA)


def test_an_environment_whose_set_up_was_interrupted_is_a_note(tmp_path: Path) -> None:
    (check,) = check_environment(tmp_path, lock="numpy==1.26.4\n", packages={"numpy": "1.26.4"}, finished=False)
    assert (check.status, check.found) == ("note", "set-up was not finished")


def test_an_absent_environment_is_a_note(tmp_path: Path) -> None:
    (check,) = doctor.check_environment(environment=tmp_path / ".venv", lock=tmp_path / "cpu.lock", shown=())
    assert (check.status, check.found) == ("note", "not there yet")


def test_a_triton_wheel_without_its_server_is_reported(tmp_path: Path) -> None:
    packages = {"numpy": "1.26.4", "nvidia-pytriton": "0.7.0"}
    lock = "".join(f"{name}=={version}\n" for name, version in packages.items())
    _, check = check_environment(tmp_path, lock=lock, packages=packages)
    assert check.status == "MISSING"
    assert "bin/tritonserver is not in the wheel nvidia-pytriton" in check.found


def test_numpy_2_beside_triton_is_refused_whatever_the_lock_says(tmp_path: Path) -> None:
    packages = {"numpy": "2.4.6", "nvidia-pytriton": "0.7.0"}
    lock = "".join(f"{name}=={version}\n" for name, version in packages.items())
    _, check = check_environment(tmp_path, lock=lock, packages=packages)
    assert check.status == "MISSING"
    assert "corrupts arrays of numpy 2" in check.found


def test_a_data_wheel_is_judged_by_its_hash(tmp_path: Path) -> None:
    wheel = tmp_path / "sample-1.0-py3-none-any.whl"
    digest = "6bf6ed1d8d9a5f7a4a8fae5d2b5ab8f8f1d1f3f0b7cbb1fa5ad2fd5d5b9c6f00"
    assert doctor.check_wheel(path=wheel, digest=digest).found == "not there yet"
    wheel.write_bytes(b"half a download")
    assert doctor.check_wheel(path=wheel, digest=digest).status == "note"
    assert doctor.check_wheel(path=wheel, digest=environments.sha256(wheel)).status == "ok"


def test_the_environments_keep_the_accelerator_they_were_made_for(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / environments.STAMP).write_text('{"accelerator": "gpu"}')
    assert environments.choose_accelerator(asked="auto", root=tmp_path) == "gpu"
    assert environments.choose_accelerator(asked="cpu", root=tmp_path) == "cpu"


def test_doctor_and_what_it_imports_can_be_read_by_python_3_8() -> None:
    for name in ("doctor.py", "environments.py"):
        source = (ROOT / "scripts" / name).read_text()
        assert "from __future__ import annotations" in source
        importlib.import_module("ast").parse(source, feature_version=(3, 8))
