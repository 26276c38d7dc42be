"""The preparation Job: how it is rendered, and what its end means."""

from .containers import opener_image
from .job import RESOLVE, preparation_job, preparation_policy, resolve_job
from .outcome import Outcome, is_held_back, preparation_outcome
from .task import Task, preparation_request

__all__ = [
    "RESOLVE",
    "Outcome",
    "Task",
    "is_held_back",
    "opener_image",
    "preparation_job",
    "preparation_outcome",
    "preparation_policy",
    "preparation_request",
    "resolve_job",
]
