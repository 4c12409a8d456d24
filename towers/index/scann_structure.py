"""Items in a ScaNN searcher: a tree of leaves, and codes of residuals that are fitted to inner products.

Owns how a searcher is learned, searched, encoded anew and kept as arrays. ScaNN is an extra: what is missing is said
where it is first needed. It searches and trains on the CPU, a query on one thread, and takes no filter.

Source: Guo et al., ICML 2020, "Accelerating large-scale inference with anisotropic vector quantization"; the library
is github.com/google-research/google-research/tree/master/scann.
"""

# Shapes: N queries, P items, M of them, W width of the structure, C codes an item.

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from towers.errors import ScannMissing
from towers.index.effort import Effort
from towers.index.passing import Passing, passing_first

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

FEWEST = 16  # entries of a codebook, which wants as many items to learn from
# What ScaNN calls its files, all that a searcher without embeddings has; what is learned, then what items are.
LEARNED = {"ah_codebook.pb": "AH_CENTERS", "serialized_partitioner.pb": "PARTITIONER"}
ENCODED = {"datapoint_to_token.npy": "TOKENIZATION_NPY", "hashed_dataset.npy": "AH_DATASET_NPY"}
EMBEDDINGS = {"dataset.npy": "DATASET_NPY"}


def scann_library() -> Any:
    """ScaNN's module without TensorFlow.

    Raises:
        ScannMissing: it is not installed.
    """
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise ScannMissing(
            f"this index is searched by ScaNN, which cannot be imported here ({error}): make setup EXTRAS=scann adds "
            "it to .venv. Triton's environment cannot have it, since it has numpy 1: serve this index in process "
            "(scripts/serve.py serving.mode=inprocess), or build one of Faiss: scripts/build_index.py index=ivf_flat"
        ) from error
    return scann_ops_pybind


def has_scann() -> bool:
    """Whether it can be imported."""
    try:
        scann_library()
    except ScannMissing:
        return False
    return True


@dataclass(frozen=True)
class ScannSettings:
    """Of a searcher; what ScaNN is told follows from them.

    Attributes:
        width: W.
        leaves: of the tree.
        coordinates_a_code: that share 4 bits.
        threshold: products above it are those that codes are fitted to; NaN: all alike.
    """

    width: int
    leaves: int
    coordinates_a_code: int
    threshold: float

    def builder(self, embeddings: FloatArray) -> Any:
        """ScaNN's own, over embeddings [P, W]; by k-means++ it draws the same centroids each time, by default not."""
        builder = scann_library().builder(embeddings, 1, "dot_product")
        builder.tree(self.leaves, 1, training_sample_size=len(embeddings), random_init=False)
        builder.score_ah(self.coordinates_a_code, anisotropic_quantization_threshold=self.threshold)
        return builder.set_n_training_threads(1)

    def config(self) -> bytes:
        """As ScaNN reads it."""
        text = self.builder(np.empty((0, self.width), np.float32)).create_config()
        from google.protobuf import text_format  # of ScaNN's own requirements
        from scann.proto.scann_pb2 import ScannConfig

        return bytes(text_format.Parse(text, ScannConfig()).SerializeToString())


@dataclass(frozen=True, eq=False)
class ScannStructure:
    """See Structure; built by `learned`.

    Attributes:
        searcher: ScaNN's.
        num: P.
    """

    searcher: Any
    settings: ScannSettings
    num: int
    is_exact: bool = field(default=False, init=False)

    @classmethod
    def learned(cls, embeddings: FloatArray, settings: ScannSettings) -> Self:
        """Learn of embeddings [P, W], and encode them.

        Raises:
            ScannMissing: ScaNN is not installed.
        """
        shown = np.resize(embeddings, (max(len(embeddings), FEWEST), settings.width))
        structure = cls(settings.builder(shown).build(), settings, len(shown))
        return structure if len(shown) == len(embeddings) else structure.encoding(embeddings, passing=None)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The reverse of `arrays` and `settings`.

        Raises:
            KeyError, IndexError, TypeError, ValueError, RuntimeError: these are of something else.
            ScannMissing: ScaNN is not installed.
        """
        # Numbers and nothing else, for ScaNN is told them as text.
        width, leaves, a_code = (int(settings[name]) for name in ("width", "leaves", "coordinates_a_code"))
        own = ScannSettings(width, leaves, a_code, float(settings["threshold"]))
        leaf_of, coded = arrays["datapoint_to_token.npy"], arrays["hashed_dataset.npy"]
        codes = -(-width // max(a_code, 1))
        if leaf_of.dtype != np.int32 or coded.dtype != np.uint8 or coded.shape != (*leaf_of.shape, codes):
            raise ValueError(f"expected a leaf and {codes} codes an item; got {leaf_of.shape} and {coded.shape}")
        if coded.max(initial=0) >= FEWEST:
            raise ValueError(f"expected codes of 4 bits; got {coded.max()}")
        structure = cls(_opened(own, {name: arrays[name] for name in (*LEARNED, *ENCODED)}), own, len(leaf_of))
        # A codebook or a tree of another width is found out by a search alone.
        structure.search(np.zeros((1, width), np.float32), 1, k=1, effort=Effort(lists=leaves), passing=None)
        return structure

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By ScaNN's names of files: what was learned, as bytes, and what each item is."""
        with tempfile.TemporaryDirectory() as folder:
            self.searcher.serialize(folder, relative_path=True)
            files = {name: np.fromfile(Path(folder) / name, np.uint8) for name in LEARNED}
            return files | {name: np.load(Path(folder) / name, allow_pickle=False) for name in ENCODED}

    @property
    def width(self) -> int:
        """See Structure."""
        return self.settings.width

    @property
    def num_lists(self) -> int:
        """See Structure."""
        return self.settings.leaves

    @property
    def num_bytes(self) -> int:
        """See Structure; as the arrays are."""
        return sum(array.nbytes for array in self.arrays().values())

    def under(self, passing: Passing) -> Self:
        """See Structure; more is asked for, and dropped."""
        return self

    def search(
        self, queries: FloatArray, num: int, *, k: int, effort: Effort, passing: Passing | None
    ) -> tuple[FloatArray, IntArray]:
        """See Structure."""
        share = 1.0 if passing is None else passing.share
        leaves = min(ceil((effort.lists or 1) / sqrt(share)), self.num_lists)

        def first(wanted: int) -> tuple[FloatArray, IntArray]:
            found, scores = self.searcher.search_batched(
                queries, final_num_neighbors=wanted, pre_reorder_num_neighbors=wanted, leaves_to_search=leaves
            )
            places = found.astype(np.int64)
            if np.isnan(scores[:, -1]).any():  # they come best first
                places[np.isnan(scores)] = -1
            return scores, places

        if not len(queries):  # ScaNN refuses none
            return np.empty((0, num), np.float32), np.empty((0, num), np.int64)
        return first(num) if passing is None else passing_first(first, passing, num=num, most=self.num)

    def encoding(self, placed: FloatArray, *, passing: Passing | None) -> Self:
        """See Structure."""
        files = {name: array for name, array in self.arrays().items() if name in LEARNED}
        searcher = _opened(self.settings, {**files, "dataset.npy": placed})
        return type(self)(searcher, self.settings, len(placed))

    def decoded(self, places: IntArray | None) -> FloatArray:
        """See Structure; never asked, for embeddings are stored beside."""
        raise NotImplementedError("ScaNN does not give embeddings back: a part keeps them")


def _opened(settings: ScannSettings, files: Mapping[str, NDArray[Any]]) -> Any:
    """A searcher of these files; what it lacks of ENCODED ScaNN makes of the embeddings.

    ScaNN reads a directory: it is made here, of names that stand here, and is gone afterwards. Nothing else that a
    foreign file may say of paths or settings reaches ScaNN.
    """
    library = scann_library()
    kinds = LEARNED | ENCODED | EMBEDDINGS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scann_config.pb").write_bytes(settings.config())
        for file, array in files.items():
            if file in LEARNED:
                (folder / file).write_bytes(array.tobytes())
            else:
                np.save(folder / file, array, allow_pickle=False)
        assets = (f'assets {{ asset_type: {kinds[file]} asset_path: "{folder / file}" }}\n' for file in files)
        (folder / "scann_assets.pbtxt").write_text("".join(assets))
        return library.load_searcher(name)
