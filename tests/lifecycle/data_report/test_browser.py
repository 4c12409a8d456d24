"""The page in a real browser, where there is one."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from features.columns import FeatureColumns
from features.labels import ActionLabels
from features.split import TimeSplit
from lifecycle.data_report.write import write_data_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), None)
TIMEOUT_S = 120
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = pytest.mark.skipif(FOUND is None, reason=f"none of {', '.join(BROWSERS)} is installed")


@pytest.fixture(scope="module")
def page(prepare_into: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of section: cuts in time, several kinds, rows set aside, missing values, drift."""
    random = np.random.default_rng(0)
    events = [
        (f"q{random.integers(30)}", f"i{int(random.random() ** 2 * 60)}", random.random() * 200, kind)
        for kind in random.choice(["view", "buy", "<script>alert(1)</script>"], 900).tolist()
    ]
    columns = FeatureColumns(
        query_categories=(),
        query_numbers=("age",),
        item_categories=("colour",),
        item_numbers=(),
        item_texts=(),
    )
    data_dir = prepare_into(
        tmp_path_factory.mktemp("data"),
        [*events, ("q1", "i1", -30_000), ("q1", "</table>", 1)],
        items=[f"i{place}" for place in range(70)],
        queries=[f"q{place}" for place in range(30)],
        item_columns={"colour": pa.array([(None, "red", "blue")[place % 3] for place in range(70)], pa.string())},
        query_columns={"age": pa.array([None, *range(20, 49)], pa.int32())},
        labels=ActionLabels(relevance={"view": 0, "buy": 1}, otherwise=0),
        split=TimeSplit(train=0.7, ranking=0.1, validation=0.1),
        name="<b>shop</b>",
    )
    return write_data_report(data_dir, columns=columns)


def browse(page: Path, profile: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser prints, and what the page's console says."""
    command = [str(FOUND), *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            printed, logged = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # its own children too
            raise
    assert process.returncode == 0, logged
    return printed, re.findall(r"CONSOLE.*", logged)


def test_every_section_renders_and_the_console_stays_silent(page: Path, tmp_path: Path) -> None:
    document, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert console == []
    assert re.findall(r'<section id="(\w+)"', document) == [
        "rows",
        "time",
        "items",
        "queries",
        "cold",
        "labels",
        "columns",
        "drift",
    ]
    assert "<script" not in document
    assert document.count("<svg") == page.read_text(encoding="utf-8").count("<svg") >= 13
    assert re.search(r"<h1><bdi>&lt;b&gt;shop&lt;/b&gt;</bdi></h1>", document)


def test_a_script_that_slipped_in_would_not_run(page: Path, tmp_path: Path) -> None:
    tampered = tmp_path / "tampered.html"
    script = "<script>document.title = 'ran'</script></body>"
    tampered.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    document, console = browse(tampered, tmp_path / "profile", "--dump-dom")
    assert "<title>ran</title>" not in document
    assert len(console) == 1  # and the console, which is silent above, is heard


@pytest.mark.parametrize("width", [500, 1240])
def test_the_page_is_light_by_day_and_dark_by_night(page: Path, tmp_path: Path, width: int) -> None:
    brightness = {}
    for name, options in (("light", ()), ("dark", (DARK,))):
        path = tmp_path / f"{name}.png"
        browse(page, tmp_path / name, *options, f"--window-size={width},2400", f"--screenshot={path}")
        with Image.open(path) as picture:
            assert picture.size == (width, 2400)
            grey = np.asarray(picture.convert("L"), dtype=np.float64)
        brightness[name] = float(np.median(grey))
        # Every band of the page has something on it.
        assert all(band.std() > 3 for band in np.array_split(grey, 8))
    assert brightness["dark"] < 60
    assert brightness["light"] > 200
