"""The record of a running cluster survives what may happen to a file."""

import pytest
from hack.cluster import record
from hack.cluster.process import Process
from hack.cluster.record import Record


def test_a_record_reads_back_as_written(tmp_path):
    path = tmp_path / "cluster.json"
    written = Record("/checkout", {"kubernetes": "1"}, {"server": "https://x"}, ready=True)
    written = written.with_process(Process("etcd", 1, 2, "boot"))
    written.write(path)
    assert record.read(path) == written


def test_a_process_started_again_replaces_the_earlier_one():
    first, second = Process("etcd", 1, 1, "boot"), Process("etcd", 2, 2, "boot")
    assert Record("/x").with_process(first).with_process(second).processes == (second,)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"checkout": "/x"}', '{"processes": [{"a": 1}]}'])
def test_no_file_or_half_a_file_is_no_record(tmp_path, content):
    path = tmp_path / "cluster.json"
    if content is not None:
        path.write_text(content)
    assert record.read(path) is None
