"""Raw columns of items -> all that serving knows of them, by what a release brings.

Owns the way through the release's models. What comes out is item_arrays.py's, preprocessing is features.transforms',
and how a release grows by it retrieval.py's. Loaded inside Triton.
"""

# Shapes: M items, D and L widths of learned and linear embeddings, E of texts, S tokens of a text as the sentence
# encoder takes them, Si tokens of a candidate with its [SEP], W width of its states.

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from features.catalogue import ItemColumns
from features.spec import FeatureSpec
from features.text import TextTokenizer, column_text
from features.transforms import ItemInputs, item_inputs, item_texts
from features.vocab import FIRST, Vocabularies
from serving.errors import InvalidRequest, ReleaseTooOld
from serving.item_arrays import ItemArrays
from serving.models import SINGLE_THREAD, open_session
from serving.release import ITEM_STATES_FILE, read_item_states
from serving.retrieval import (
    BLEND_FILE,
    CONTENT_SUFFIX,
    INDEX_FILE,
    ITEM_TOWER_FILE,
    LINEAR_SUFFIX,
    SPEC_FILE,
    TOKENIZER_FILE,
    VOCABULARIES_FILE,
)
from towers.retrievers.blend import Blend
from towers.retrievers.content import ContentMap, ItemContent

FloatArray = NDArray[np.float32]

TEXT_ENCODER_FILE, ITEM_READER_FILE = "text_encoder.onnx", "item_reader.onnx"
MAX_TOKENS = "max_tokens"  # in the metadata of the former: what it reads of a text, its own two tokens among them
MOST_ITEMS = 256  # of a call
TEXTS_AT_ONCE = 32  # whose activations are held


@dataclass(frozen=True, eq=False)
class ItemEmbedder:
    """Makes arrays of items; its models are loaded with the first ones and stay.

    Attributes:
        release_dir: of the release.
        spec, vocabularies, tokenizer: of the release.
        learned_width: of the learned embeddings in the index; None: all.
        linear_width: L.
        content: the map from content to what stands in the index; None where the release has none.
        num_threads: of each model.
    """

    release_dir: Path
    spec: FeatureSpec
    vocabularies: Vocabularies
    tokenizer: TextTokenizer
    learned_width: int | None
    linear_width: int
    content: ContentMap | None
    num_threads: int

    @classmethod
    def open(cls, release_dir: Path, *, num_threads: int = SINGLE_THREAD) -> "ItemEmbedder":
        """Read what is small; of a release whose files were checked."""
        index = release_dir / INDEX_FILE
        content = index.with_suffix(CONTENT_SUFFIX)

        def document(name: str) -> Any:
            return json.loads((release_dir / name).read_text(encoding="utf-8"))

        return cls(
            release_dir=release_dir,
            spec=FeatureSpec.from_json(document(SPEC_FILE)),
            vocabularies=Vocabularies.from_json(document(VOCABULARIES_FILE)),
            tokenizer=TextTokenizer(release_dir / TOKENIZER_FILE),
            learned_width=Blend.read(release_dir / BLEND_FILE).learned_width,
            linear_width=np.load(index.with_suffix(LINEAR_SUFFIX), mmap_mode="r", allow_pickle=False).shape[1],
            content=ContentMap.read(content) if content.is_file() else None,
            num_threads=num_threads,
        )

    def embed(self, columns: ItemColumns) -> ItemArrays:
        """Arrays of M items.

        An item that the vocabulary knows keeps its VocabId, and so what was learnt of it; `linear` and `as_new` are by
        content alone, of every item.

        Args:
            columns: all of the spec's and no other; a number may be nan where it is missing.

        Raises:
            InvalidRequest: columns are missing or wrong, or there are no items or more than MOST_ITEMS.
            ReleaseTooOld: the release has no encoder of texts, or a ranker that reads items beforehand and no reader.
        """
        columns = _folded(self._checked(columns))
        rows = item_inputs(columns, spec=self.spec, vocabularies=self.vocabularies, tokenizer=self.tokenizer)
        inputs = ItemInputs(**{field.name: getattr(rows, field.name)[FIRST:] for field in fields(ItemInputs)})
        names = self.spec.names("item", "text")
        texts = self._text_embeddings(item_texts(columns, names=names)[FIRST:])
        learned: FloatArray = self._item_tower.run(
            None,
            {
                "item_id": inputs.item_id[:, None],
                "categories": inputs.categories,
                "numbers": inputs.numbers,
                "text_embedding": texts,
            },
        )[0]
        as_new = learned[:, : self.learned_width]
        linear = np.zeros((len(learned), self.linear_width), dtype=np.float32)
        if self.content is not None:
            found = self.content.of(ItemContent.of(inputs, texts=texts))
            as_new, linear = found[:, : as_new.shape[1]], found[:, as_new.shape[1] :]
        item_ids = columns.catalogue.item_ids
        return ItemArrays(
            item_ids=item_ids,
            titles=tuple(columns.texts[names[0]]) if names else item_ids,
            inputs=inputs,
            learned=learned,
            linear=linear,
            text=texts if self.spec.text.query_tokens else texts[:, :0],
            as_new=as_new,
            states=self._states(inputs.text_tokens),
        )

    @cached_property
    def _item_tower(self) -> onnxruntime.InferenceSession:
        return open_session(self.release_dir / ITEM_TOWER_FILE, num_threads=self.num_threads)

    @cached_property
    def _text_encoder(self) -> onnxruntime.InferenceSession:
        return self._session(TEXT_ENCODER_FILE, reads="texts")

    @cached_property
    def _item_reader(self) -> onnxruntime.InferenceSession | None:
        if read_item_states(self.release_dir) is None:
            return None
        return self._session(ITEM_READER_FILE, reads=f"items for {ITEM_STATES_FILE}")

    def _session(self, name: str, *, reads: str) -> onnxruntime.InferenceSession:
        path = self.release_dir / name
        if not path.is_file():
            raise ReleaseTooOld(
                f"{path} is missing, by which {reads} are read: the release takes no items; export it "
                "again: scripts/export_release.py"
            )
        return open_session(path, num_threads=self.num_threads)

    def _text_embeddings(self, texts: Sequence[str]) -> FloatArray:
        """[M, E]; a text without tokens is all zeros."""
        width = next(own.shape[1] for own in self._item_tower.get_inputs() if own.name == "text_embedding")
        embeddings = np.zeros((len(texts), width), dtype=np.float32)
        if not self.spec.names("item", "text"):
            return embeddings
        encoder = self._text_encoder
        max_tokens = int(encoder.get_modelmeta().custom_metadata_map[MAX_TOKENS])
        tokens = self.tokenizer.sentences(texts, max_tokens=max_tokens)
        lengths = (tokens != self.tokenizer.pad).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        # By length, so that little of a batch is padding.
        for start in range(0, len(order), TEXTS_AT_ONCE):
            places = order[start : start + TEXTS_AT_ONCE]
            longest = max(int(lengths[places[-1]]), 1)
            embeddings[places] = encoder.run(None, {"tokens": tokens[places, :longest]})[0]
        return embeddings

    def _states(self, text_tokens: NDArray[np.int32]) -> NDArray[np.int8]:
        """[M, Si, W] from the candidates' tokens [M, Si - 1]."""
        edge = np.full((len(text_tokens), 1), self.tokenizer.sep)
        tokens = np.concatenate([text_tokens, edge], axis=1).astype(np.int64)
        if self._item_reader is None:
            return np.zeros((*tokens.shape, 0), dtype=np.int8)
        batches = (tokens[start : start + TEXTS_AT_ONCE] for start in range(0, len(tokens), TEXTS_AT_ONCE))
        return np.concatenate([self._item_reader.run(None, {"tokens": batch})[0] for batch in batches])

    def _checked(self, columns: ItemColumns) -> ItemColumns:
        """The same.

        Raises:
            InvalidRequest: they are not what the spec says.
        """
        item_ids = columns.catalogue.item_ids
        if not 1 <= len(item_ids) <= MOST_ITEMS:
            raise InvalidRequest(
                field="item_ids", message=f"expected 1 to {MOST_ITEMS} items a call; got {len(item_ids)}"
            )
        for item_id in item_ids:
            if not (item_id and _is_text(item_id)):
                raise InvalidRequest(field="item_ids", message=f"expected texts that are not empty; got {item_id!r}")
        for kind, given, names, is_valid, expected in (
            ("categories", columns.categories, self.spec.names("item", "category"), _are_texts, "a list of texts"),
            ("numbers", columns.numbers, self.spec.names("item", "number", "column"), _is_number, "a number or nan"),
            ("texts", columns.texts, self.spec.names("item", "text"), _is_text, "a text"),
        ):
            _check(kind, given, names=names, num=len(item_ids), is_valid=is_valid, expected=expected)
        return columns


def _check(
    kind: str,
    given: Mapping[str, Any],
    *,
    names: Sequence[str],
    num: int,
    is_valid: Callable[[Any], bool],
    expected: str,
) -> None:
    """Refuse columns of one kind that are not those of the spec, or not of `num` items."""
    for name in sorted({*given} ^ {*names}):
        got = "no such column" if name in names else "a column that the release does not have"
        raise InvalidRequest(
            field=f"{kind}.{name}", message=f"expected the columns {', '.join(names) or 'none'}; got {got}"
        )
    for name in names:
        if len(given[name]) != num:
            raise InvalidRequest(
                field=f"{kind}.{name}", message=f"expected {expected} for each of {num} items; got {len(given[name])}"
            )
        for place, value in enumerate(given[name]):
            if not is_valid(value):
                raise InvalidRequest(
                    field=f"{kind}.{name}", message=f"expected {expected} for each item; item {place} has {value!r:.80}"
                )


def _is_text(value: Any) -> bool:
    # A lone surrogate is no text that a tokenizer takes; JSON can bring one.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _folded(columns: ItemColumns) -> ItemColumns:
    """Texts on one line, as a dataset's are, and numbers as arrays."""
    return replace(
        columns,
        numbers={name: np.asarray(values, dtype=np.float64) for name, values in columns.numbers.items()},
        texts={name: [column_text(text) for text in texts] for name, texts in columns.texts.items()},
    )
