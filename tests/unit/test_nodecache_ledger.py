"""The books of the node cache against a model of a few lines, and what must hold whatever is asked."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.nodecache.ledger import Ledger

NAMES = "abcdefgh"
LIMIT = 100


def kept(ledger: Ledger, digest: str, size: int, free: int = LIMIT) -> tuple[str, ...] | None:
    """Reserve and fill at once; what had to go."""
    gone = ledger.reserve(digest, size, free)
    if gone is not None:
        ledger.fill(digest)
        ledger.release(digest)
    return gone


STEPS = st.one_of(
    st.tuples(st.just("keep"), st.sampled_from(NAMES), st.integers(0, LIMIT + 10)),
    st.tuples(st.just("begin"), st.sampled_from(NAMES), st.integers(0, LIMIT + 10)),
    st.tuples(st.just("abandon"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("take"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("release"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("condemn"), st.sampled_from(NAMES), st.just(0)),
)


@given(st.lists(STEPS, max_size=60), st.integers(0, 2 * LIMIT))
def test_never_over_the_limit_and_nothing_in_use_goes(steps, free):
    ledger = Ledger(LIMIT)
    sizes: dict[str, int] = {}
    reading: dict[str, int] = {}
    begun: set[str] = set()
    for step, name, size in steps:
        before = set(ledger.digests)
        if step in ("keep", "begin"):
            gone = ledger.reserve(name, size, free)
            if gone is None:
                assert set(ledger.digests) == before, "nothing goes in vain"
                continue
            assert not {digest for digest in gone if reading.get(digest)}
            assert not begun & set(gone)
            assert size <= free + sum(sizes[digest] for digest in gone)
            sizes[name] = size
            if step == "begin":
                begun.add(name)
            else:
                ledger.fill(name)
                ledger.release(name)
        elif step == "abandon" and name in begun:
            begun.remove(name)
            ledger.release(name)
            assert name not in ledger.digests
        elif step == "take" and ledger.take(name) is not None:
            reading[name] = reading.get(name, 0) + 1
            assert ledger.digests[-1] == name
        elif step == "release" and reading.get(name):
            reading[name] -= 1
            ledger.release(name)
        elif step == "condemn" and name not in begun:
            ledger.condemn(name)
            assert ledger.take(name) is None
        assert 0 <= ledger.used <= LIMIT
        assert sum(sizes[digest] for digest in ledger.digests) <= ledger.used
    for name, count in reading.items():
        for _ in range(count):
            ledger.release(name)
    for name in begun:
        ledger.release(name)
    assert ledger.used == sum(sizes[digest] for digest in ledger.digests), "all that was held is given back"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=60))
def test_as_an_ordinary_lru_while_nobody_reads(asked):
    """Of contents of equal size the books hold the most recently asked ones, in that order."""
    ledger, size = Ledger(LIMIT), LIMIT // 4
    expected: list[str] = []
    for name, _ in asked:
        if ledger.take(name) is not None:
            ledger.release(name)
        else:
            kept(ledger, name, size)
        expected = [*(digest for digest in expected if digest != name), name][-4:]
        assert list(ledger.digests) == expected


def test_a_full_disk_takes_room_from_the_cache_itself():
    ledger = Ledger(LIMIT)
    kept(ledger, "a", 30)
    kept(ledger, "b", 30)
    assert kept(ledger, "c", 40, free=20) == ("a",)
    assert kept(ledger, "d", 90, free=0) is None
    assert ledger.digests == ("b", "c")


def _reading(ledger: Ledger) -> None:
    kept(ledger, "a", 60)
    ledger.take("a")


def _writing(ledger: Ledger) -> None:
    ledger.reserve("a", 60, LIMIT)


def _condemned_in_use(ledger: Ledger) -> None:
    _reading(ledger)
    ledger.condemn("a")


def test_what_is_in_use_makes_room_for_nobody():
    in_use: tuple[Callable[[Ledger], None], ...] = (_reading, _writing, _condemned_in_use)
    for hold in in_use:
        ledger = Ledger(LIMIT)
        hold(ledger)
        assert kept(ledger, "b", 60) is None
        assert kept(ledger, "a", 60) is None, "one at a time of one name"
        ledger.release("a")
        assert kept(ledger, "b", 60) is not None
