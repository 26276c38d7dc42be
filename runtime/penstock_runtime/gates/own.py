"""The user's own metric: judged from the number that their image has written."""

from collections.abc import Mapping
from typing import Any

from penstock.api.reasons import Reason

from .asked import GatesAsked
from .row import GateRow, number

__all__ = ["judge_metric"]


def judge_metric(accuracy: Mapping[str, Any], value: float, source: float | None) -> list[GateRow]:
    """The rows of `spec.gates.accuracy` with an image; larger is better, `source` is the metric of the source's own.

    How the metric comes of its rows is not known here, so there is no interval: the numbers are held against the bounds
    as they are.
    """
    asked = GatesAsked.read({"accuracy": accuracy}).accuracy
    assert asked is not None
    rows = []
    if asked.minimum is not None:
        rows.append(_judge("accuracy", f"at least {number(asked.minimum)}", value, asked.minimum, source))
    if asked.max_drop is not None:
        text = f"at most {number(asked.max_drop)} points worse"
        if source is None:
            sentence = "maxDropPercent needs the metric of the source's answers too, and there is none"
            failed = Reason.ACCURACY_FAILED
            rows.append(GateRow("accuracy.drop", text, "", passed=False, reason=failed, sentence=sentence))
        else:
            rows.append(_judge("accuracy.drop", text, 100 * (source - value), asked.max_drop, source, better="Lower"))
    return rows


def _judge(name: str, asked: str, value: float, bound: float, source: float | None, better: str = "Higher") -> GateRow:
    passed = value >= bound if better == "Higher" else value <= bound
    measured = f"{number(value)}" + ("" if better == "Higher" else " points")
    what = "the metric of your image is" if better == "Higher" else "by the metric of your image the model lost"
    own = f" (the source's own is {number(source)})" if source is not None else ""
    sentence = "" if passed else f"{what} {measured}{own}, asked: {asked}; export the model again, or ask for less"
    reason = None if passed else Reason.ACCURACY_FAILED
    return GateRow(
        name, asked, measured, passed, reason, sentence, value=value, bound=bound, better=better, baseline=source
    )
