"""MovieLens as GroupLens publishes it: ML-1M, 10M, 20M, 25M, 32M and the latest ones, from a folder or a zip file.

Owns the formats of those releases and their download. The reading itself is that of any files (files.py beside this).
"""

import hashlib
import http.client
import logging
import re
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from features.errors import FeaturesError, SourceDamaged, SourceMissing
from features.events import RawTables
from features.sources.attributes import ItemFile, QueryFile
from features.sources.files import EventColumns, EventFile, Files
from features.sources.tabular import Layout

log = logging.getLogger(__name__)

URL = "https://files.grouplens.org/datasets/movielens"
# What GroupLens publishes beside each zip file; none for those that it replaces from time to time.
MD5 = {
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "ce571fd55effeba0271552578f2648bd",
    "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "d472be332d4daa821edc399621853b57",
    "ml-latest": None,
    "ml-latest-small": None,
}
RATINGS = ("ratings.csv", "ratings.dat")
YEAR_AT_END = re.compile(r"^(.*?)\s*\((\d{4})\)\s*$")
NO_GENRES = "(no genres listed)"
AGE_GROUPS = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56+"}
OCCUPATIONS = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class MovieLens:
    """The dataset's files.

    Args:
        path: the folder or the zip file of one release.
        download: fetch the zip file that `path` is named after (ml-1m, say), if neither is there.
        url: where from.
    """

    path: Path | str
    download: bool = False
    url: str = URL

    def read(self) -> RawTables:
        """Read the three tables.

        Raises:
            SourceMissing: there is nothing at `path`, and it was not or could not be downloaded.
            SourceDamaged: what is there is no release, or another one than was asked for.
        """
        root, names = _release(self._present())
        raw = (_dat_files(root, names) if "ratings.dat" in names else _csv_files(root)).read()
        return RawTables(
            events=raw.events,
            items=_with_year(raw.items),
            queries=_with_words(raw.queries),
            unparsed=raw.unparsed,
            facts=raw.facts,
            files=raw.files,
        )

    def _present(self) -> Path:
        """Where the release lies, after a download if need be."""
        path = Path(self.path)
        archive = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
        if path.exists() or archive.exists():
            return path if path.exists() else archive
        url = f"{self.url}/{archive.name}"
        if not self.download:
            raise SourceMissing(
                f"MovieLens: nothing at {path.absolute()}; download {url} and put it there, unpacked or not, or set "
                "dataset.source.download=true"
            )
        if archive.stem not in MD5:
            raise FeaturesError(f"MovieLens: {archive.stem} is no release; dataset.source.path may end in {[*MD5]}")
        _download(url, archive, md5=MD5[archive.stem])
        return archive


def _download(url: str, archive: Path, *, md5: str | None) -> None:
    """Fetch a file, check it, and let it appear whole."""
    log.info("downloading %s", url)
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}.partial")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply, partial.open("wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if md5 is not None and digest.hexdigest() != md5:
            raise SourceDamaged(f"MovieLens: expected {url} with md5 {md5}, got {digest.hexdigest()}; try again")
        partial.rename(archive)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceMissing(
            f"MovieLens: cannot download {url} ({error}); download it where there is a network and put it at {archive}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _release(path: Path) -> tuple[Path, set[str]]:
    """The folder that holds a release (inside a zip file, a path through it), and the names in it."""
    if path.is_dir():
        files = [str(file.relative_to(path)) for pattern in ("*", "*/*") for file in path.glob(pattern)]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                files = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise SourceDamaged(f"MovieLens: {path} is no whole zip file ({error}); download it again") from error
    roots = {PurePosixPath(file).parent for file in files if PurePosixPath(file).name in RATINGS}
    if len(roots) != 1:
        raise SourceDamaged(
            f"MovieLens: expected one folder with {' or '.join(RATINGS)} in {path}, found {len(roots)}; "
            "point dataset.source.path at one release (ML-100K has another format: dataset=movielens100k)"
        )
    root = roots.pop()
    return path / root, {PurePosixPath(file).name for file in files if PurePosixPath(file).parent == root}


def _csv_files(root: Path) -> Files:
    columns = EventColumns(query_id="userId", item_id="movieId", value="rating")
    return Files(
        events=EventFile(path=root / "ratings.csv", columns=columns, event="rating"),
        items=ItemFile(path=root / "movies.csv", id="movieId", text=["title"], categories=["genres"], separator="|"),
    )


def _dat_files(root: Path, names: set[str]) -> Files:
    """ML-1M is in Latin-1 and knows its users; ML-10M is in UTF-8 and does not."""
    encoding = "latin-1" if "users.dat" in names else "utf-8"

    def layout(*header: str) -> Layout:
        return Layout(delimiter="::", quote="", encoding=encoding, header=header)

    users = QueryFile(
        path=root / "users.dat",
        id="userId",
        categories=["gender", "age", "occupation"],
        layout=layout("userId", "gender", "age", "occupation", "zip_code"),
    )
    return Files(
        events=EventFile(
            path=root / "ratings.dat",
            columns=EventColumns(query_id="userId", item_id="movieId", value="rating"),
            event="rating",
            layout=layout("userId", "movieId", "rating", "timestamp"),
        ),
        items=ItemFile(
            path=root / "movies.dat",
            id="movieId",
            text=["title"],
            categories=["genres"],
            separator="|",
            layout=layout("movieId", "title", "genres"),
        ),
        queries=users if "users.dat" in names else QueryFile(),
    )


def _with_year(items: pa.Table) -> pa.Table:
    """Items whose title ends in the year of release, divided into both."""
    titles, years = [], []
    for title in items["title"].to_pylist():
        divided = YEAR_AT_END.match(title)
        titles.append(divided[1] if divided else title.strip())
        years.append(int(divided[2]) if divided else None)
    genres = [[genre for genre in row if genre != NO_GENRES] for row in items["genres"].to_pylist()]
    items = items.set_column(items.column_names.index("title"), "title", pa.array(titles, pa.string()))
    items = items.set_column(items.column_names.index("genres"), "genres", pa.array(genres, pa.list_(pa.string())))
    return items.append_column("year", pa.array(years, pa.int32()))


def _with_words(queries: pa.Table) -> pa.Table:
    """Queries with gender, age_group and occupation: words for ML-1M's numbers, null where a release has none."""
    if "age" not in queries.column_names:
        for name in ("gender", "age_group", "occupation"):
            queries = queries.append_column(name, pa.nulls(queries.num_rows, pa.string()))
        return queries
    ages = pa.array([AGE_GROUPS.get(age) for age in queries["age"].to_pylist()], pa.string())
    words = dict(zip(map(str, range(len(OCCUPATIONS))), OCCUPATIONS, strict=True))
    occupations = pa.array([words.get(number) for number in queries["occupation"].to_pylist()], pa.string())
    return (
        queries.select(["query_id", "gender", "source_row"])
        .append_column("age_group", ages)
        .append_column("occupation", occupations)
    )
