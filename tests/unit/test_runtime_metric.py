"""What an image of the user's own leaves as its metric: a number is read, everything else is told as it was seen."""

import os
from pathlib import Path

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.conclusion import read_metric
from penstock_runtime.failure import Failure


@pytest.mark.parametrize(
    ("text", "value"), [('{"value": 0.97}', 0.97), ('{"value": 1, "n": 540}', 1.0), (' {"value": "0.5"}\n', 0.5)]
)
def test_a_number_is_read(tmp_path: Path, text: str, value: float) -> None:
    (tmp_path / "value.json").write_text(text)
    assert read_metric(tmp_path) == value


RUBBISH = [
    "", "0.97", "accuracy: 0.97", '{"value": NaN}', '{"value": 1e999}', '{"value": true}', '{"value": null}',
    '{"value": [0.97]}', '{"accuracy": 0.97}', '[{"value": 0.97}]', '{"value": 1' + "0" * 400 + "}", "[" * 4000,
    "\x07bell", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_is_shown_beside_what_was_expected(tmp_path: Path, text: str) -> None:
    (tmp_path / "value.json").write_text(text)
    with pytest.raises(Failure) as told:
        read_metric(tmp_path)
    assert told.value.reason is Reason.ACCURACY_FAILED
    for words in ("spec.gates.accuracy.image", text[:8].strip("\x07"), '{"value": 0.97}'):
        assert words in told.value.message
    assert len(told.value.message) < 500


def none(path: Path) -> None:
    pass


def a_link(path: Path) -> None:
    (path.parent / "secret").write_text('{"value": 1}')
    path.symlink_to(path.parent / "secret")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("leave", [none, a_link, a_pipe, Path.mkdir])
def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, leave) -> None:
    leave(tmp_path / "value.json")
    with pytest.raises(Failure, match=r"spec\.gates\.accuracy\.image left (no|a) value\.json") as told:
        read_metric(tmp_path)
    assert told.value.reason is Reason.ACCURACY_FAILED
