"""An index as one file: an npz archive of each part's rows, structure and stored embeddings, and a json of settings.

Owns the layout. The archive's directory stands at its end and has a checksum of every member, so a file that ends
early or was changed is refused. Files of before, one bare Faiss index, are read too.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from towers.errors import GpuMissing, ScannMissing, UnreadableIndex
from towers.index.effort import Effort
from towers.index.faiss_structure import FaissStructure
from towers.index.part import Part
from towers.index.scann_structure import ENCODED, LEARNED, ScannStructure
from towers.index.structure import Structure

FORMAT = "twostage index 1"
BARE = b"IxM2"  # how Faiss begins a file of an IndexIDMap2


def write_parts(path: Path, parts: Sequence[Part]) -> None:
    """Write the file; readers never see a half-written one."""
    settings: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for place, part in enumerate(parts):
        own, members = _written(part.structure)
        common = {"width": part.width, "effort": asdict(part.effort), "radius": part.radius}
        settings.append({**common, "stored": part.stored is not None, **own})
        arrays |= {f"{place}.rows": part.rows, **{f"{place}.{name}": array for name, array in members.items()}}
        for name, array in (("stored", part.stored), ("axes", part.axes)):
            if array is not None:
                arrays[f"{place}.{name}"] = array
    document = np.array(json.dumps({"format": FORMAT, "parts": settings}))
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, settings=document, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def read_parts(path: Path) -> tuple[Part, ...]:
    """The reverse of `write_parts`.

    Raises:
        UnreadableIndex: the file is missing, truncated or of another kind.
        GpuMissing: a part is to be searched on a GPU, and there is none.
        ScannMissing: a part is ScaNN's, which is not installed.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(BARE)) == BARE:
                return (_bare_part(faiss.read_index(str(path))),)
            if not zipfile.is_zipfile(file):
                raise ValueError("no archive, or one cut short")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                document = json.loads(str(arrays["settings"]))
                if document["format"] != FORMAT:
                    raise ValueError(f"expected {FORMAT!r}; got {document['format']!r}")
                return tuple(_read_part(arrays, place, own) for place, own in enumerate(document["parts"]))
    except (GpuMissing, ScannMissing):
        raise
    except (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise UnreadableIndex(
            f"{path} is not a readable index ({error}); build it again: scripts/build_index.py"
        ) from error


def _written(structure: Structure) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and arrays of a structure; of Faiss's the bytes are all, of ScaNN's what it would write as files."""
    if isinstance(structure, ScannStructure):
        return {"scann": asdict(structure.settings)}, structure.arrays()
    if isinstance(structure, FaissStructure):
        return {"on_gpu": structure.on_gpu}, {"structure": faiss.serialize_index(structure.index)}
    raise TypeError(f"no layout of {type(structure).__name__} is known")


def _read_structure(arrays: Any, place: int, settings: dict[str, Any]) -> Structure:
    if "scann" in settings:
        own = {name: arrays[f"{place}.{name}"] for name in (*LEARNED, *ENCODED)}
        return ScannStructure.of_arrays(own, settings["scann"])
    return FaissStructure(faiss.deserialize_index(arrays[f"{place}.structure"]), on_gpu=settings["on_gpu"])


def _read_part(arrays: Any, place: int, settings: dict[str, Any]) -> Part:
    structure = _read_structure(arrays, place, settings)
    rows = arrays[f"{place}.rows"]
    stored: NDArray[np.float32] | None = arrays[f"{place}.stored"] if settings["stored"] else None
    axes: NDArray[np.float32] | None = arrays[name] if (name := f"{place}.axes") in arrays else None
    width = int(settings["width"])
    if len(rows) != structure.num or (stored is not None and stored.shape != (len(rows), width)):
        raise ValueError(f"part {place} has {len(rows)} rows and {structure.num} items")
    if axes is not None and (axes.ndim != 2 or len(axes) < width or axes.shape[1] != structure.width):
        raise ValueError(f"part {place} has axes {axes.shape} from {width} to {structure.width} coordinates")
    return Part(
        rows=rows,
        structure=structure,
        width=width,
        effort=Effort(**settings["effort"]),
        radius=settings["radius"],
        axes=axes,
        stored=stored,
    )


def _bare_part(index: Any) -> Part:
    structure: Any = faiss.clone_index(faiss.downcast_index(index.index))
    beam = structure.hnsw.efSearch if hasattr(structure, "hnsw") else None
    rows = faiss.vector_to_array(index.id_map)
    return Part(rows=rows, structure=FaissStructure(structure), width=structure.d, effort=Effort(beam=beam))
