"""Where the parts of Triton lie in the server's own environment, and whether they can work there.

Owns asking that environment's interpreter. Imports nothing of it: the two environments have different numpys.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving.errors import EnvironmentMissing

# Run by the server's interpreter. `locate_file` rather than an import: pytriton's own import takes seconds.
_PROBE = """
import json, sysconfig
from importlib.metadata import PackageNotFoundError, distribution, version
def found(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
names = ("nvidia-pytriton", "numpy", "onnxruntime", "faiss-cpu", "tokenizers", "twostage")
site = str(distribution("nvidia-pytriton").locate_file("")) if found("nvidia-pytriton") else None
print(json.dumps({"versions": {name: found(name) for name in names}, "site": site,
    "python": sysconfig.get_python_version(), "libdir": sysconfig.get_config_var("LIBDIR"),
    "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))}))
"""


@dataclass(frozen=True)
class TritonInstallation:
    """Where the server's parts lie.

    Attributes:
        python_backend_files: what the Python backend consists of, with the stub of the interpreter's version.
        library_dirs: for LD_LIBRARY_PATH, in order.
        bin_dir: of the environment; the stub takes its packages from the first `python3` on PATH.
    """

    server: Path
    caches_dir: Path
    python_backend_files: list[Path]
    library_dirs: list[Path]
    bin_dir: Path

    @classmethod
    def find(cls, triton_python: Path) -> Self:
        """Ask the interpreter of the server's environment.

        Raises:
            EnvironmentMissing: it, a package or a file is missing, or numpy is one that the stub misreads.
        """
        python = triton_python.absolute()  # not resolved: the link's place is what makes it the environment's
        try:
            ran = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", None) or error
            raise EnvironmentMissing(f"{python} does not run: {detail}; create it with `make setup`") from error
        probe = json.loads(ran.stdout)
        _check_versions(probe["versions"], python=python)
        if not probe["shared"]:
            raise EnvironmentMissing(
                f"{python} was built without a shared libpython, which Triton's stub links: "
                "use another Python 3.11 for .venv-triton, or serve with serving.mode=inprocess"
            )
        root = Path(probe["site"]) / "pytriton" / "tritonserver"
        found = cls(
            server=root / "bin" / "tritonserver",
            caches_dir=root / "caches",
            python_backend_files=[
                root / "backends" / "python" / "libtriton_python.so",
                root / "backends" / "python" / "triton_python_backend_utils.py",
                root / "python_backend_stubs" / probe["python"] / "triton_python_backend_stub",
            ],
            library_dirs=[Path(probe["libdir"]), Path(probe["site"]) / "nvidia_pytriton.libs"],
            bin_dir=python.parent,
        )
        for path in (found.server, *found.python_backend_files):
            if not path.is_file():
                raise EnvironmentMissing(
                    f"{path} is missing: {python} -m pip install --force-reinstall nvidia-pytriton"
                )
        return found


def _check_versions(versions: dict[str, str | None], *, python: Path) -> None:
    missing = [name for name, version in versions.items() if version is None]
    if "faiss-cpu" in missing:
        missing.remove("faiss-cpu")  # a GPU machine has faiss-gpu in its place
    if missing:
        raise EnvironmentMissing(f"{python} lacks {', '.join(missing)}: run `make setup`")
    numpy = versions["numpy"] or ""
    if int(numpy.split(".")[0]) >= 2:
        raise EnvironmentMissing(f"{python} has numpy {numpy}; this Triton's stub needs numpy < 2: run `make setup`")
