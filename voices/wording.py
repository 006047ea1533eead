"""Answers in words: one vocabulary for commands and page."""

from voices.answers import ALMOST, Decision
from voices.recordings import NO_SPEECH

# What `verify` says, and the exit code of its command.
VERDICTS = {"same": "the same person", "unclear": "cannot tell", "different": "different people"}
EXIT_CODES = {"same": 0, "different": 1, "unclear": 3}


def one_in(rate: float) -> str:
    """A rate in words: "1 in 20", or "7 in 10" for frequent ones."""
    if rate > 0.15:
        return f"{max(2, min(9, round(10 * rate)))} in 10"
    return f"1 in {float(f'{1 / max(rate, 1e-6):.2g}'):,.0f}"


def times_in(rate: float) -> str:
    """A rate in words, of what happens: "1 time in 20", or "7 times in 10"."""
    number, rest = one_in(rate).split(" ", 1)
    return f"{number} {'time' if number == '1' else 'times'} {rest}"


def sentence(words: str) -> str:
    """A warning with the full stop that it lacks; a question has its mark."""
    return words if words.endswith("?") else f"{words}."


def capital(words: str) -> str:
    """Words with a capital at their begin."""
    return words[:1].upper() + words[1:]


def percent(rate: float) -> str:
    """A rate in percent, with two digits."""
    return f"{100 * rate:.2g}" if rate < 0.995 else "100"


def meaning_in_words(answer: dict, decision: Decision) -> str:
    """What a score means, in a sentence or two; "" if that was not measured."""
    as_high, lower = answer["different_people_score_as_high"], answer["one_person_scores_lower"]
    if any(words == NO_SPEECH for _, words in answer.get("warnings", ())):
        return "There is a recording without speech to compare."
    if as_high is None:
        return ""
    lowest, highest = decision.calibration["false_accept_rates"][0], decision.calibration["false_accept_rates"][-1]
    fewer = "Fewer than " if as_high <= lowest * ALMOST else "More than " if as_high >= highest / ALMOST else ""
    strangers = f"{fewer}{one_in(as_high)} strangers would sound this alike."
    often = "fewer than 1 time in 100" if lower < 0.01 else times_in(lower)
    unlike = f"Two recordings of one person are this unlike {often}."
    unclear = f"{strangers} {unlike} More recordings on either side, or longer ones, make it surer."
    return {"same": strangers, "different": unlike}.get(answer["verdict"], unclear)


def score_in_words(answer: dict, decision: Decision) -> str:
    """How it is known: the score, its threshold, and both rates."""
    words = f"score {answer['score']:.3f} (threshold {answer['threshold']:.3f})."
    if answer["different_people_score_as_high"] is None:
        return words
    as_high, lower = answer["different_people_score_as_high"], answer["one_person_scores_lower"]
    fewer = "fewer than " if as_high <= decision.calibration["false_accept_rates"][0] * ALMOST else ""
    of_one = f"of pairs of one person {percent(1 - lower)} %."
    return f"{words} Of pairs of different people {fewer}{percent(as_high)} % score this high or higher, {of_one}"


def name_in_words(answer: dict) -> str:
    """Who it is, by the answer of `identify`."""
    names = [answer["speaker"] or answer["ranking"][0][0], *answer["rivals"]]
    either = " or ".join(names)
    return {
        "known": names[0],
        "probable": f"probably {either}",
        "unclear": f"cannot tell, perhaps {either}",
        "unknown": "nobody I know",
    }[answer["verdict"]]


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
