"""Our reader and writer of config.pbtxt agree with protobuf's, and errors say where."""

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.modelrepo import ConfigSyntaxError, config_text, parse_config, textreader, textwriter
from penstock.core.modelrepo.proto import new_config, parse_version, schema, unavailable_fields
from tests.catalogue.cases import load_cases

TEXTS = {
    f"{case.id}/{path.parent.name}": path.read_text()
    for kind in ("bad", "valid")
    for case in load_cases(kind)
    for path in sorted(case.root.glob("*/config.pbtxt"))
}


def protobuf_reading(text: str) -> object:
    config = new_config()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError:
        return None
    return config


def our_reading(text: str) -> object:
    try:
        return parse_config(text)
    except ConfigSyntaxError:
        return None


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_files_read_as_protobuf_reads_them(text: str) -> None:
    assert our_reading(text) == protobuf_reading(text)


def test_most_files_are_read_fast() -> None:
    """The fast reader may give up, but then it would be of no use."""
    given_up = []
    for name, text in TEXTS.items():
        try:
            textreader.read(text, new_config())
        except textreader.NotRead:
            given_up.append(name)
    assert len(given_up) <= len(TEXTS) * 0.06


FRAGMENTS = [
    'name: "a"', "name: 'a'", 'name: "a" "b"', 'name: "\\x41"', "name: a", "max_batch_size: 8", "max_batch_size: 08",
    "max_batch_size: 0x8", "max_batch_size: -1", "max_batch_size: 99999999999", "max_batch_size: 1.5",
    "max_batch_size 8", "max_batch_size: [8]", "input {", "input: {", "input [", "{", "}", "]", ",", ";", "<", ">",
    "dims: 4", "dims: [ 1, -1 ]", "dims: [ ]", "dims: [ 1 2 ]", "dims: [ 1, ]", "data_type: TYPE_FP32",
    "data_type: 11", "data_type: TYPE_X", "optional: true", "optional: t", "optional: 1", "reshape { }",
    "reshape { shape: [ ] }", "dynamic_batching { }", "sequence_batching { }", "response_cache { enable: true }",
    'metric_tags { key: "a" value: "b" }', 'metric_tags { value: "b" key: "a" }', 'metric_tags { key: "a" }',
    'metric_tags [ { key: "a" value: "b" } ]', 'parameters { key: "a" value { string_value: "b" } }',
    'parameters { key: "a", value: { string_value: "b" }, }', "# comment\n",
    "instance_group { count: 2 kind: KIND_CPU }",
    "sequence_batching { direct { minimum_slot_utilization: 0.5 } }", "input", ":", "8", '"', "[", "inputs { }",
    "version_policy { all { } }", "version_policy { all { } latest { } }", "input { } , input { } ;",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8))
def test_any_text_reads_as_protobuf_reads_it(fragments: list[str]) -> None:
    text = " ".join(fragments)
    assert our_reading(text) == protobuf_reading(text)


@given(st.text(alphabet="ab1-. {}[]:,;<>\"'\\\n#_é", max_size=40))
def test_no_text_is_read_otherwise_than_by_protobuf(text: str) -> None:
    assert our_reading(text) == protobuf_reading(text)


configs = st.builds(
    schema.ModelConfig,
    name=st.text(max_size=8),
    max_batch_size=st.integers(-1, 64),
    input=st.lists(
        st.builds(
            schema.ModelInput,
            name=st.text(max_size=4),
            data_type=st.sampled_from(range(15)),
            dims=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
            optional=st.booleans(),
            reshape=st.none() | st.builds(schema.ModelTensorReshape, shape=st.lists(st.integers(0, 9), max_size=2)),
        ),
        max_size=3,
    ),
    metric_tags=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    parameters=st.dictionaries(
        st.text(max_size=3), st.builds(schema.ModelParameter, string_value=st.text(max_size=3)), max_size=2
    ),
    sequence_batching=st.none()
    | st.builds(
        schema.ModelSequenceBatching,
        direct=st.builds(
            schema.ModelSequenceBatching.StrategyDirect, minimum_slot_utilization=st.floats(0, 1, width=32)
        ),
    ),
    dynamic_batching=st.none(),
    model_operations=st.none()
    | st.builds(schema.ModelOperations, op_library_filename=st.lists(st.text(max_size=3), max_size=2)),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_writing_is_protobufs_byte_for_byte_and_reads_back(config: object) -> None:
    text = config_text(config)
    assert text == text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    assert parse_config(text) == config


def test_the_writer_leaves_floats_to_protobuf() -> None:
    config = new_config()
    config.sequence_batching.direct.minimum_slot_utilization = 0.5
    with pytest.raises(textwriter.NotWritten):
        textwriter.write(config)
    assert "minimum_slot_utilization: 0.5" in config_text(config)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("max_batch_size: }", 1, 17, "integer"),
        ('name: "a"\nmax_batchsize: 3', 2, 1, "max_batchsize"),
        ('name: "a\n', 1, 7, "quote"),
        ("input { data_type: TYPE_FLOAT }", 1, 20, "TYPE_FLOAT"),
        ("dynamic_batching { } sequence_batching { }", 1, 22, "scheduling_choice"),
    ],
)
def test_a_syntax_error_has_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ConfigSyntaxError) as caught:
        parse_config(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert words in str(caught.value)


def test_fields_are_known_from_a_version_on() -> None:
    config = new_config()
    config.ensemble_scheduling.max_inflight_requests = 3
    config.model_metrics.SetInParent()
    paths = [path for path, _ in unavailable_fields(config, "2.51")]
    assert paths == ["model_metrics", "ensemble_scheduling.max_inflight_requests"]
    assert unavailable_fields(config, "2.71.0") == []


@pytest.mark.parametrize("text", ["", "2", "v2.51", "24.10-py3", "2.x"])
def test_what_is_no_version_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_version(text)
