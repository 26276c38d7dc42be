"""The preparation Job: how it is rendered, and what its end means."""

from .job import preparation_job, preparation_request
from .outcome import Outcome, preparation_outcome

__all__ = ["Outcome", "preparation_job", "preparation_outcome", "preparation_request"]
