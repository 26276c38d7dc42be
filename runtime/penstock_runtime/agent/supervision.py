"""The timer of an unsupervised candidate: pure, with every clock an argument."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from .split import Split

__all__ = ["Timer", "observe", "restored", "spend"]


@dataclass(frozen=True)
class Timer:
    """What an agent knows about the supervision of one model; kept beside the configuration.

    `deadline` is in seconds of the monotonic clock of the boot `boot`, None without supervision. `expired` is spent:
    only a higher generation takes it back. `applied` says that everything was sent to stable.
    """

    uid: str
    generation: int
    renew_time: str
    deadline: float | None
    boot: str
    expired: bool = False
    applied: bool = False

    def due(self, monotonic: float) -> bool:
        """Whether the promise was not kept."""
        return self.expired or (self.deadline is not None and monotonic >= self.deadline)

    def store(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def restored(found: Any) -> Timer | None:
    """The timer of stored JSON, None if it is none."""
    try:
        return Timer(
            uid=str(found["uid"]),
            generation=int(found["generation"]),
            renew_time=str(found["renew_time"]),
            deadline=None if found["deadline"] is None else float(found["deadline"]),
            boot=str(found["boot"]),
            expired=bool(found["expired"]),
            applied=bool(found["applied"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def observe(known: Timer | None, split: Split, *, monotonic: float, wall: float, boot: str) -> Timer:
    """The timer after a look at the split.

    A renewal, which is any change of the renew time, and a higher generation start the whole timeout from now. Who has
    no memory of the model, or one of another boot, takes the age from the wall clock. What was spent stays spent, but a
    deadline that passed while nobody looked is none: the operator may have renewed meanwhile.
    """
    same = known if known is not None and known.uid == split.uid else None
    spent = same if same is not None and same.expired and split.generation <= same.generation else None
    timer = Timer(
        uid=split.uid,
        generation=split.generation,
        renew_time=split.supervision.renew_time if split.supervision else "",
        deadline=_deadline(same, split, monotonic=monotonic, wall=wall, boot=boot),
        boot=boot,
    )
    return replace(timer, expired=True, applied=spent.applied) if spent else timer


def spend(timer: Timer, *, applied: bool) -> Timer:
    """The timer once it is due; `applied` when everything goes to stable."""
    return replace(timer, expired=True, applied=timer.applied or applied)


def _deadline(known: Timer | None, split: Split, *, monotonic: float, wall: float, boot: str) -> float | None:
    supervision = split.supervision
    if supervision is None or supervision.keep:
        return None
    if known is None or known.boot != boot:
        return monotonic + supervision.timeout - max(0.0, wall - supervision.renewed)
    renewed = supervision.renew_time != known.renew_time or split.generation > known.generation
    if renewed or known.deadline is None:
        return monotonic + supervision.timeout
    return known.deadline
