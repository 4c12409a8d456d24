from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
pip_failure: Any = importlib.import_module("pip_failure")

NO_NETWORK = """Looking in indexes: https://index.example/simple
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...: Failed to establish a new
connection: [Errno -3] Temporary failure in name resolution')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0
"""
NO_WHEEL = """ERROR: Could not find a version that satisfies nvidia-pytriton==0.7.0 (from versions: none)
ERROR: No matching distribution found for nvidia-pytriton==0.7.0
"""


def explain(output: str, torch_index: str = "") -> str:
    return str(pip_failure.explain(output=output, log=Path("/logs/train.log"), torch_index=torch_index))


def test_a_missing_network_names_the_index_that_was_tried_and_the_way_round() -> None:
    message = explain(NO_NETWORK)
    assert "no network to the package index https://index.example/simple" in message
    assert "PIP_INDEX_URL" in message
    assert "ERROR: No matching distribution found for torch==2.13.0" in message


def test_a_missing_wheel_is_named_with_the_command_that_says_more() -> None:
    message = explain(NO_WHEEL)
    assert "has no wheel nvidia-pytriton==0.7.0" in message
    assert "make doctor" in message


def test_a_torch_index_without_torch_is_named() -> None:
    message = explain("ERROR: No matching distribution found for torch==2.13.0\n", torch_index="https://torch.example")
    assert "the package index https://torch.example has no torch" in message
    assert "TORCH_INDEX" in message


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "free some disk space"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))", "PIP_CERT"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "requirements/data.lock"),
        (
            "The virtual environment was not created successfully because ensurepip is not\navailable.",
            "python3.11-venv",
        ),
        ("OSError: libgomp.so.1: cannot open shared object file: No such file or directory", "libgomp1"),
        ("import-linter 2.16 has requirement rich>=14.2.0, but you have rich 14.1.0.", "make locks"),
        ("ERROR: something new", "/logs/train.log"),
    ],
)
def test_each_known_failure_has_its_remedy(output: str, advice: str) -> None:
    assert advice in explain(output).partition("->")[2]
