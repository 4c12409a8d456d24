from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from features.errors import FeaturesError
from features.text import TextTokenizer, column_text

VOCABULARY = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "toy": 4, "story": 5, "the": 6}


def write_tokenizer(path: Path, *, vocabulary: dict[str, int]) -> Path:
    """A word tokenizer whose own file asks for special tokens, padding and cutting."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", vocabulary["[UNK]"])]
    )
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(max_length=2)
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(
        write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", vocabulary=VOCABULARY)
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Toy  Story\n(1995)\t", "Toy Story (1995)"),
        (["Drama", "Crime"], "Drama, Crime"),
        (["a", "b", "c", "d", "e"], "a, b, c, d"),
        ([], ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_column_is_one_line_of_its_first_values(value, expected):
    assert column_text(value) == expected


def test_a_list_keeps_as_many_values_as_asked_for():
    assert column_text(["a", "b", "c"], max_values=1) == "a"


@given(st.one_of(st.text(), st.lists(st.text(), max_size=6)))
def test_a_column_never_holds_a_line_break_or_a_run_of_spaces(value):
    line = column_text(value)
    assert line.splitlines() in ([], [line])
    assert "  " not in line
    assert line == line.strip()
    assert column_text(line) == line


def test_tokens_are_padded_on_the_right_without_special_tokens(tokenizer):
    tokens = tokenizer.encode(["toy story", "", "the unheard"], length=4)
    assert tokens.tolist() == [[4, 5, 0, 0], [0, 0, 0, 0], [6, 3, 0, 0]]
    assert tokens.dtype == np.int32


def test_a_long_text_is_cut_and_the_files_own_limits_do_not_matter(tokenizer):
    assert tokenizer.encode(["toy story toy the toy"], length=3).tolist() == [[4, 5, 4]]
    assert tokenizer.encode(["toy " * 20], length=12).tolist() == [[4] * 12]


def test_only_the_first_characters_of_a_text_are_read(tokenizer):
    # 3 tokens read 48 characters: the word at character 49 is never seen
    assert tokenizer.encode([" " * 48 + "toy"], length=3).tolist() == [[0, 0, 0]]
    assert tokenizer.encode([" " * 45 + "toy"], length=3).tolist() == [[4, 0, 0]]


def test_a_sentence_leaves_room_for_two_tokens_and_is_read_as_far_as_its_encoder_would(tokenizer):
    assert tokenizer.sentences(["toy toy toy"], max_tokens=4).tolist() == [[4, 4]]
    # 4 tokens read 64 characters, though two of them are the encoder's own
    assert tokenizer.sentences([" " * 61 + "toy", " " * 64 + "toy"], max_tokens=4).tolist() == [[4, 0], [0, 0]]


def test_no_texts_have_no_rows(tokenizer):
    assert tokenizer.encode([], length=3).shape == (0, 3)


@given(texts=st.lists(st.lists(st.sampled_from(["toy", "story", "ü", " "]), max_size=8).map(" ".join), max_size=5))
def test_a_batch_equals_its_texts_one_at_a_time(tokenizer, texts):
    batch = tokenizer.encode(texts, length=5)
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(tokenizer.encode([text], length=5)[0], batch[row])


def test_special_tokens_and_size_come_from_the_file(tokenizer):
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.size) == (0, 1, 2, 7)


def test_a_missing_file_says_what_to_install(tmp_path):
    with pytest.raises(FeaturesError, match=r"no tokenizer at .*absent\.json: install the encoder it belongs to"):
        TextTokenizer(tmp_path / "absent.json")


def test_a_tokenizer_without_a_special_token_is_refused_by_name(tmp_path):
    without = {token: place for place, token in enumerate(token for token in VOCABULARY if token != "[SEP]")}
    path = write_tokenizer(tmp_path / "tokenizer.json", vocabulary=without)
    with pytest.raises(FeaturesError, match=r"expected the tokens \[PAD\], \[CLS\] and \[SEP\]; \[SEP\] is missing"):
        TextTokenizer(path)
