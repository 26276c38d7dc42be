"""Gates: what a prepared model must prove before it gets a request, judged on the user's data.

`offline.OfflineGates` judges in the container that opens the model, `served` in front of the real server. Every
judgement is a `GateRow`: what was asked, what was measured on how many rows, and if it failed a sentence with what to
do. What is exported here needs nothing but the standard library, as the transfer container reads it; the judges need
numpy.
"""

from .asked import AccuracyAsked, GatesAsked, LoadAsked, ParityAsked
from .own import judge_metric
from .row import GateRow, first_failed

__all__ = ["AccuracyAsked", "GateRow", "GatesAsked", "LoadAsked", "ParityAsked", "first_failed", "judge_metric"]
