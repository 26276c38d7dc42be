"""A build is found again exactly as long as nothing that decides it has changed."""

from dataclasses import replace
from pathlib import Path

import pytest
from hack.cluster import binaries
from hack.cluster.errors import ClusterError

TOOL = binaries.Tool("tool", ("program",), expect="")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "go.mod").write_text("module tool\n")
    (tmp_path / "go.sum").write_text("")
    return tmp_path


def test_the_key_repeats(module: Path):
    assert binaries.key(TOOL, module, "go1.26") == binaries.key(TOOL, module, "go1.26")


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "main.go"])
def test_pins_checksums_and_sources_change_the_key(module: Path, file: str):
    before = binaries.key(TOOL, module, "go1.26")
    (module / file).write_text("changed")
    assert binaries.key(TOOL, module, "go1.26") != before


def test_compiler_and_flags_change_the_key(module: Path):
    before = binaries.key(TOOL, module, "go1.26")
    assert binaries.key(TOOL, module, "go1.27") != before
    assert binaries.key(replace(TOOL, ldflags=""), module, "go1.26") != before


def test_other_files_do_not(module: Path):
    before = binaries.key(TOOL, module, "go1.26")
    (module / "README.md").write_text("words")
    assert binaries.key(TOOL, module, "go1.26") == before


def test_an_unknown_program_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(ClusterError, match="kubectl"):
        binaries.binary("docker", tmp_path)


@pytest.mark.parametrize("tool", binaries.TOOLS, ids=lambda tool: tool.name)
def test_every_tool_has_its_pins(tool: binaries.Tool):
    assert (binaries.MODULES / tool.name / "go.mod").exists()
    assert (binaries.MODULES / tool.name / "go.sum").exists()
