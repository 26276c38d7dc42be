"""How a new revision takes the place of the stable one: canary, blue/green, shadow, commands. Pure decisions."""

from .course import Course, find_course, percent, permille
from .machine import decide
from .position import TRAFFIC, Position
from .progress import Progress
from .route import Route, find_route, read_route, spare
from .situation import Decision, Outcome, Situation, Wait
from .words import describe_decision

__all__ = [
    "TRAFFIC",
    "Course",
    "Decision",
    "Outcome",
    "Position",
    "Progress",
    "Route",
    "Situation",
    "Wait",
    "decide",
    "describe_decision",
    "find_course",
    "find_route",
    "percent",
    "permille",
    "read_route",
    "spare",
]
