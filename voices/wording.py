"""The answers of `voices/answers.py` in words."""

from voices.answers import ALMOST, Decision
from voices.database import UNKNOWN


def one_in(rate: float, lowest: float) -> str:
    """A rate in words: 1 pair in so many."""
    if rate >= 0.9 / ALMOST:
        return "nearly all pairs score"
    fewer = "fewer than " if rate <= lowest * ALMOST else ""
    if rate >= 0.1:
        return f"{fewer}{100 * rate:.0f} pairs in 100 score"
    return f"{fewer}1 pair in {float(f'{1 / rate:.2g}'):,.0f} scores"


def score_in_words(answer: dict, decision: Decision) -> str:
    """A score, and what it means."""
    words = f"score {answer['score']:.3f}, threshold {answer['threshold']:.3f}"
    if answer["different_people_score_as_high"] is None:
        return f"{words}."
    lowest = decision.calibration["false_accept_rates"][0]
    as_high, lower = answer["different_people_score_as_high"], answer["one_person_scores_lower"]
    return (
        f"{words}. Of different people, {one_in(as_high, lowest)} as high; "
        f"of one person, {100 * lower:.0f} pairs in 100 score lower."
    )


def verdict_in_words(answer: dict) -> str:
    """The answer of `verify`, with its doubt."""
    doubt = ", not sure" if answer["sure"] is False else ""
    return f"{'the same speaker' if answer['same'] else 'different speakers'}{doubt}"


def name_in_words(answer: dict) -> str:
    """The name that `identify` found, with its doubt."""
    scores = dict(answer["ranking"])
    if answer["rivals"]:
        return f"{answer['speaker']}, not sure: " + ", ".join(
            f"{name} scores {scores[name]:.3f} as well" for name in answer["rivals"]
        )
    if answer["sure"] is False:
        nearest = answer["ranking"][0][0]
        return f"{answer['speaker']}, not sure" if answer["speaker"] else f"unknown, not sure: perhaps {nearest}"
    return answer["speaker"] or UNKNOWN


def decision_in_words(decision: Decision, num_enrolled: int = 1) -> str:
    """At what rate is decided, and what that means for so many enrolled people."""
    if decision.false_accept_rate is None:
        return f"Threshold {decision.given:g} as given."
    rate = 100 * decision.false_accept_rate
    words = (
        f"Thresholds: {rate:.3g} % of pairs of strangers score higher, measured on {decision.calibration['source']}."
    )
    if num_enrolled > 1:
        words += f" So up to {min(100, rate * num_enrolled):.3g} % of unknown voices get one of {num_enrolled} names."
    return words
