"""Each key has one action; irreversible ones are confirmed first."""

import pytest

from helpers.fake_controls import FakeControls
from helpers.synthetic_run import synthetic_run
from rlm.config import RAISABLE_LIMITS, Limits
from rlm.live.keys import Keys, limited, split
from rlm.live.meters import Meter, meters
from rlm.live.tree import RunState


def totals(limits: Limits) -> list[Meter]:
    tree = RunState()
    for event in synthetic_run(calls=100):
        tree(event)
    assert tree.started is not None
    return meters(tree, limits, seconds=tree.latest - tree.started)


def pressed(keys: str, controls: FakeControls | None = None) -> tuple[list[object], str]:
    """The requests to the run, and the footer after them."""
    controls = controls or FakeControls(Limits(max_cost_usd=3.0))
    board = Keys(controls)
    for key in keys:
        board.press(key, totals(controls.limits))
    footer = "\n".join("".join(text for text, _ in line) for line in board.footer(totals(controls.limits)))
    return controls.asked, footer


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ("p", ["pause"]),
        ("pp", ["pause", "unpause"]),
        ("ay", ["answer now"]),
        ("an", []),
        ("qy", ["cancel"]),
        ("q\x1b", []),
        ("qp", []),
        ("\x03", ["cancel"]),
        ("l\r", [{"max_cost_usd": 6.0}]),
        ("l\n", [{"max_cost_usd": 6.0}]),
        ("lc", [{"max_lm_calls": 20_000}]),
        ("ls", [{"max_seconds": 7200.0}]),
        ("lr", []),
        ("l\rl\r", [{"max_cost_usd": 6.0}, {"max_cost_usd": 12.0}]),
        ("lt", []),
        ("lq", []),
        ("?p", ["pause"]),
        ("xyY \x1b", []),
    ],
)
def test_keys_steer_the_run(keys: str, asked: list[object]) -> None:
    assert pressed(keys)[0] == asked


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("", "q cancel"),
        ("p", "p continue"),
        ("a", "Answer now with what the run has so far?"),
        ("q", "Cancel the run?"),
        ("l", "d dollars $2.40 of $3.00 → $6.00"),
        ("lc", "The limit on calls is now 20,000."),
        ("lx", "Nothing changed."),
        ("?", "rlm resume"),
        ("??", "? help"),
    ],
)
def test_the_footer_says_what_can_be_pressed_and_what_was_done(keys: str, text: str) -> None:
    assert text in pressed(keys)[1]


@pytest.mark.parametrize("keys", ["", "p", "a", "l", "q", "?"])
def test_the_footer_fits_into_80_columns(keys: str) -> None:
    assert max(map(len, pressed(keys)[1].splitlines())) <= 80


def test_the_limit_closest_to_its_end_comes_first() -> None:
    _, footer = pressed("l", FakeControls(Limits(max_cost_usd=300.0, max_tokens=1_400_000, max_rlms=4)))
    assert footer.index("tokens") < footer.index("calls") < footer.index("dollars")


def test_the_limits_that_the_keys_offer_are_those_that_a_run_accepts() -> None:
    controls = FakeControls(Limits(max_cost_usd=3.0, max_tokens=10**7, max_rlms=4))
    for meter in limited(totals(controls.limits)):
        assert pressed(f"l{meter.key}", controls)[1].startswith(f"The limit on {meter.name} is ")
    assert {name for asked in controls.asked for name in asked} == set(RAISABLE_LIMITS)  # type: ignore[attr-defined]


def test_a_limit_that_cannot_be_raised_is_one_sentence() -> None:
    gone = FakeControls(Limits(max_cost_usd=3.0), refusal="max_cost_usd cannot be raised: the run is over.")
    asked, footer = pressed("ld", gone)
    assert asked == []
    assert "the run is over" in footer


def test_without_limits_there_is_none_to_raise() -> None:
    none = Limits(max_lm_calls=None, max_seconds=None, max_rlms=4)
    assert "no limit that can be raised" in pressed("l", FakeControls(none))[1]


def test_arrows_and_other_sequences_press_nothing() -> None:
    assert split(b"\x1b[A") == split(b"\x1bOP") == []
    assert split(b"\x1b") == ["\x1b"]
    assert split("pé".encode()) == ["p", "é"]
    assert split(b"\xff\xfe") == []
