"""README.md says nothing that is not so: its commands exist and run, its links lead somewhere, its snippet works."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lifecycle.serve import Addresses

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", README)
STARTS = ("make ", "curl ", ".venv/bin/python ")
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for text in [*SPANS, *(line for language, body in FENCES if not language for line in body.splitlines())]
        for line in [text.strip()]
        if line.startswith(STARTS)
    }
)
SCRIPTS = sorted({line for line in COMMANDS if line.startswith(".venv/bin/python ")})
NAMED_SCRIPTS = sorted(set(re.findall(r"scripts/(\w+)\.py", README)))
SNIPPETS = [body for language, body in FENCES if language == "python"]
LINKS = sorted(set(re.findall(r"\]\(([^)#\s]+)", README)))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    skipped = ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE")  # of a make around the tests
    environment = {name: value for name, value in os.environ.items() if name not in skipped}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def overrides_of(command: str) -> tuple[str, list[list[str]]]:
    """The script's stem, and the overrides of each run that the command asks for."""
    stem, arguments = Path(shlex.split(command)[1]).stem, shlex.split(command)[2:]
    if "-m" not in arguments:
        return stem, [arguments]
    swept = [argument.split("=", 1) for argument in arguments if argument != "-m"]
    runs: list[list[str]] = [[]]
    for name, values in swept:
        runs = [[*one, f"{name}={value}"] for one in runs for value in values.split(",")]
    return stem, runs


def test_the_readme_was_read() -> None:
    assert {"make demo", "make test", "make serve", "make doctor"} <= set(COMMANDS)
    assert {"run_pipeline", "train_towers", "evaluate", "recommend", "serve"} <= {
        overrides_of(command)[0] for command in SCRIPTS
    }
    assert SNIPPETS
    assert LINKS


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_command_names_a_target_and_variables_of_the_makefile(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \??=" if is_variable else rf"^{name}:.*## "
        assert re.search(pattern, makefile, flags=re.MULTILINE), word


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_script_command_composes(command: str) -> None:
    stem, runs = overrides_of(command)
    assert (ROOT / "scripts" / f"{stem}.py").is_file()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        for overrides in runs:
            assert compose(config_name=stem, overrides=overrides) is not None


@pytest.mark.parametrize("stem", NAMED_SCRIPTS)
def test_every_script_that_is_named_exists(stem: str) -> None:
    assert (ROOT / "scripts" / f"{stem}.py").is_file()


def marked(stem: str) -> object:
    """What trains or measures takes seconds to import, and other tests run it."""
    return stem if stem in ("recommend", "serve") else pytest.param(stem, marks=pytest.mark.slow)


@pytest.mark.parametrize("stem", [marked(stem) for stem in sorted({overrides_of(one)[0] for one in SCRIPTS})])
def test_every_script_shows_its_settings(stem: str) -> None:
    done = run(sys.executable, f"scripts/{stem}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "== Config ==" in done.stdout


@pytest.mark.parametrize("command", ["make help", "make doctor"])
def test_cheap_make_commands_run(command: str) -> None:
    done = run(*command.split())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("link", LINKS)
def test_every_link_leads_to_a_file(link: str) -> None:
    assert re.match(r"https?://", link) or (ROOT / link).exists()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_what_the_snippet_imports_exists(snippet: str) -> None:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def test_the_results_of_the_table_lie_where_it_says(smoke_run: Path) -> None:
    rows = re.findall(r"^\| [^|]+ \| `scripts/(\w+)\.py` \| ([^|]+) \|$", README, flags=re.MULTILINE)
    assert len(rows) == 7
    for _, results in rows:
        names = re.findall(r"`([^`]+)`", results)
        folder = smoke_run / "demo" / (names[0] if names[0].endswith("/") else "")
        for name in names:
            assert (smoke_run / "demo" / name).exists() or list(folder.rglob(name)), name


# --- with a server that runs ---


def at(text: str, addresses: Addresses, *, store_dir: Path | None = None) -> str:
    """A command or snippet of the README, but for the server of these tests."""
    assert re.search(r"127\.0\.0\.1:80\d\d|recommend\.py|online_store", text)
    text = text.replace("127.0.0.1:8080", addresses.http).replace("127.0.0.1:8001", str(addresses.grpc))
    return text.replace("outputs/demo/online_store", str(store_dir))


@pytest.mark.parametrize("command", [command for command in SCRIPTS if "recommend.py" in command])
def test_a_running_server_is_asked_by_the_script(command: str, served: Addresses, tmp_path: Path) -> None:
    done = run(
        sys.executable, *shlex.split(at(command, served))[1:], f"http={served.http}", f"hydra.run.dir={tmp_path}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("query 196: source model")
    assert len(lines) == 1 + 10 + 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("curl ")])
def test_a_running_server_is_asked_by_curl(command: str, served: Addresses) -> None:
    done = run(*shlex.split(at(command, served)))
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert "error" not in reply
    assert reply.get("source", "model") == "model"
    assert reply.get("status", "ok") == "ok"


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_running_server_is_asked_by_the_snippet(snippet: str, served: Addresses, smoke_run: Path) -> None:
    asked = at(snippet, served, store_dir=smoke_run / "demo" / "online_store")
    done = run(sys.executable, "-c", f"{asked}\nprint(len(answer.items))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def test_without_a_server_the_script_says_how_to_start_one(tmp_path: Path) -> None:
    done = run(sys.executable, "scripts/recommend.py", "http=127.0.0.1:9", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "make serve" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
