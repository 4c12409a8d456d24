"""Texts and tokens: how an item becomes one line of text, and a line becomes token ids.

Owns the text template and the tokenizer file. The encoder that reads the tokens is towers' and ranking's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from features.errors import FeaturesError

PAD_TOKEN, CLS_TOKEN, SEP_TOKEN = "[PAD]", "[CLS]", "[SEP]"


SENTENCE_EDGES = 2  # [CLS] and [SEP], which a sentence encoder puts around a text


def column_text(value: str | Sequence[str] | None, *, max_values: int = 4) -> str:
    """A text column's value on one line: white space folded, the first values of a list joined by commas."""
    text = value or "" if value is None or isinstance(value, str) else ", ".join(value[:max_values])
    return " ".join(text.split())


class TextTokenizer:
    """Token ids of fixed length, cut and padded.

    Args:
        path: a `tokenizer.json` of Hugging Face tokenizers with [PAD], [CLS] and [SEP].
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FeaturesError(f"no tokenizer at {path}: install the encoder it belongs to (make setup)")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.pad, self.cls, self.sep = (self._special(name, path) for name in (PAD_TOKEN, CLS_TOKEN, SEP_TOKEN))

    def _special(self, name: str, path: Path) -> int:
        token: int | None = self._tokenizer.token_to_id(name)
        if token is None:
            raise FeaturesError(f"{path}: expected the tokens [PAD], [CLS] and [SEP]; {name} is missing")
        return token

    @property
    def size(self) -> int:
        """Number of distinct token ids."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str], *, length: int) -> NDArray[np.int32]:
        """Token ids [len(texts), length] without special tokens, right-padded.

        A text is cut to 16 characters a token first: more can't matter, and a 1 MB text must not cost seconds.
        """
        tokens = np.full((len(texts), length), self.pad, dtype=np.int32)
        encodings = self._tokenizer.encode_batch([text[: 16 * length] for text in texts], add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            ids = encoding.ids[:length]
            tokens[row, : len(ids)] = ids
        return tokens

    def sentences(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.int64]:
        """Token ids [len(texts), max_tokens - 2] for a sentence encoder that reads so many with its own two."""
        return self.encode(texts, length=max_tokens)[:, : max_tokens - SENTENCE_EDGES].astype(np.int64)
