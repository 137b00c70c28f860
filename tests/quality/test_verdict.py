"""What a report says: what the searches in use find, then one next step; from points that are made up."""

from dataclasses import replace

import pytest

from bqstore import Quantization, RecallPoint
from bqstore.quality.verdict import verdict

ONE = Quantization("one_bit", "binary", "sign", False)
TWO = Quantization("two_bits", "scalar4bits", "rabitq", False)
FOUR = Quantization("four_bits", "scalar8bits", "rabitq", True)
SIZES = {"one_bit": 100, "two_bits": 200, "four_bits": 400}


def point(quantization: Quantization, recall: float, oversampling: float = 3.0, **more) -> RecallPoint:
    given = {"rescore": True, "hnsw_ef": None, "stored": True, "way": "scan", **more}
    return RecallPoint(
        quantization=quantization,
        oversampling=oversampling,
        recall=recall,
        low=recall - 0.01,
        high=min(recall + 0.01, 1),
        milliseconds=0.1,
        slowest=0.2,
        memory_bytes=SIZES[quantization.encoding],
        **given,
    )


def trial(quantization: Quantization, recall: float, oversampling: float = 4.0) -> RecallPoint:
    return point(quantization, recall, oversampling, stored=False)


FINDS = "Your searches find {} of the true 10 nearest [{}] with {}"
EXACT = (
    "Your searches find 100.0% of the true 10 nearest [99.0, 100.0]: "
    "the collection is small, and every document is scored. When it has grown"
)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (
            [point(ONE, 0.995), point(ONE, 0.99, 4.0), trial(FOUR, 1.0)],
            FINDS.format("99.5%", "98.5, 100.0", "one bit (sign): nothing to do."),
        ),
        (
            [point(TWO, 0.995), trial(ONE, 0.96), trial(replace(ONE, estimator="rabitq"), 0.97)],
            FINDS.format("99.5%", "98.5, 100.0", "two bits (rabitq): nothing to do. ")
            + "With one bit (rabitq) they would find 97.0% at oversampling 4, in 50% of the memory.",
        ),
        (
            [point(TWO, 0.9), point(TWO, 0.94, 4.0), point(TWO, 0.96, 8.0), trial(ONE, 0.8), trial(FOUR, 1.0)],
            FINDS.format("90.0%", "89.0, 91.0", "two bits (rabitq). ")
            + "Next step: tune(); at oversampling 8 these codes find 96.0%.",
        ),
        (
            [
                point(ONE, 0.9, way="walk", hnsw_ef=64),
                point(ONE, 0.98, 4.0, way="walk", hnsw_ef=512),
                point(ONE, 0.96, 4.0, way="walk", hnsw_ef=256),
            ],
            FINDS.format("90.0%", "89.0, 91.0", "one bit (sign). ")
            + "Next step: tune(); at oversampling 4 and hnsw_ef 256 these codes find 96.0%.",
        ),
        (
            [point(ONE, 0.8), point(ONE, 0.9, 4.0), trial(TWO, 0.9), trial(TWO, 0.96, 8.0), trial(FOUR, 1.0)],
            FINDS.format("80.0%", "79.0, 81.0", "one bit (sign). ")
            + "Next step: requantize(encoding='two_bits', estimator='rabitq'); "
            + "with two bits (rabitq) they find 96.0% at oversampling 8.",
        ),
        (
            [point(ONE, 0.5), point(ONE, 0.6, 4.0), trial(replace(FOUR, truncate_dim=64), 0.9)],
            FINDS.format("50.0%", "49.0, 51.0", "one bit (sign). ")
            + "Next step: requantize(encoding='four_bits', estimator='rabitq', rotate=True, truncate_dim=64), and take "
            + "more candidates; with four bits (rabitq, rotated, of the first 64 values) they find 90.0% "
            + "at oversampling 4.",
        ),
        (
            [point(ONE, 0.5), point(ONE, 0.6, 4.0)],
            FINDS.format("50.0%", "49.0, 51.0", "one bit (sign). ")
            + "Next step: recall() without settings=, which measures other encodings.",
        ),
        (
            [point(ONE, 1.0, way="exact"), point(ONE, 0.97), point(ONE, 0.98, 4.0)],
            f"{EXACT} and codes are compared, they will find 97.0% with one bit (sign): nothing to do.",
        ),
        (
            [point(TWO, 1.0, way="exact"), point(TWO, 0.9), trial(ONE, 0.8), trial(FOUR, 0.99)],
            f"{EXACT} and codes are compared, they will find 90.0% with two bits (rabitq). "
            "Next step: requantize(encoding='four_bits', estimator='rabitq', rotate=True); "
            "with four bits (rabitq, rotated) they find 99.0% at oversampling 4.",
        ),
        (
            [point(TWO, 1.0, way="exact"), trial(ONE, 0.8)],
            f"{EXACT}, codes are compared. With one bit (sign) they would find 80.0% at oversampling 4.",
        ),
    ],
    ids=[
        "good",
        "good with more bits",
        "higher oversampling",
        "wider beam",
        "more bits",
        "nothing is enough",
        "nothing else measured",
        "small and good",
        "small and not good",
        "small and not measured",
    ],
)
def test_what_is_in_use_comes_first_then_one_next_step(points, expected):
    assert verdict(points, 10, 200, held_out=True) == expected


@pytest.mark.parametrize(
    ("held_out", "exact", "expected"),
    [
        (True, False, "with one bit (sign). 5 documents are too few to tell; add more, and measure again."),
        (False, False, "with one bit (sign). 5 queries are too few to tell; give more."),
        (True, True, "5 documents are too few to tell how its codes will do; add more, and measure again."),
        (False, True, "5 queries are too few to tell how its codes will do; give more."),
    ],
)
def test_too_few_to_tell(held_out, exact, expected):
    now = replace(point(ONE, 1.0, way="exact" if exact else "scan"), low=0.5)
    found = verdict([now, point(ONE, 0.9, 4.0)], 4, 5, held_out)
    assert found.startswith("Your searches find 100.0% of the true 4 nearest [50.0, 100.0]") and found.endswith(
        expected
    )


def test_few_queries_are_enough_to_tell_that_recall_is_low():
    points = [point(ONE, 0.5), point(ONE, 0.97, 8.0)]
    assert "Next step: tune()" in verdict([*points, trial(ONE, 0.6)], 10, 20, held_out=True)
