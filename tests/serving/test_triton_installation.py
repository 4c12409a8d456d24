import sys
from pathlib import Path

import pytest

from serving.errors import EnvironmentMissing
from serving.settings import TritonSettings
from serving.triton_installation import TritonInstallation


def test_every_part_is_found_in_the_servers_own_environment(triton_settings: TritonSettings) -> None:
    installation = TritonInstallation.find(triton_settings.triton_python)

    assert installation.server.stat().st_mode & 0o111
    assert installation.caches_dir.is_dir()
    assert installation.bin_dir == triton_settings.triton_python.parent
    assert any((directory / "libpython3.11.so.1.0").exists() for directory in installation.library_dirs)
    stub = next(path for path in installation.python_backend_files if path.name.endswith("stub"))
    assert stub.parent.name == "3.11"


def test_a_missing_environment_is_named_with_what_creates_it(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match=rf"{tmp_path}/bin/python does not run.*make setup"):
        TritonInstallation.find(tmp_path / "bin" / "python")


def test_an_environment_without_triton_says_what_it_lacks() -> None:
    with pytest.raises(EnvironmentMissing, match="lacks nvidia-pytriton: run `make setup`"):
        TritonInstallation.find(Path(sys.executable))


def test_an_interpreter_that_fails_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho broken interpreter >&2\nexit 1\n")
    python.chmod(0o755)

    with pytest.raises(EnvironmentMissing, match="broken interpreter"):
        TritonInstallation.find(python)
