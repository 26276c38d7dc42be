"""`penstock repository check`: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli.repository import repository
from tests.catalogue.cases import CATALOGUE

BAD, VALID = CATALOGUE / "bad", CATALOGUE / "valid"


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(repository, ["check", *map(str, arguments)])


def test_a_clean_repository_ends_with_0() -> None:
    result = check(VALID / "ensemble-chain")
    assert (result.exit_code, result.output) == (0, "no problems found\n")


def test_warnings_alone_end_with_0() -> None:
    result = check(BAD / "no-inputs")
    assert result.exit_code == 0
    assert "no_inputs/config.pbtxt: warning: input: " in result.output
    assert result.output.endswith("0 errors, 1 warning\n")


def test_errors_end_with_1_and_name_file_path_and_rule() -> None:
    result = check(BAD / "dims-zero")
    assert result.exit_code == 1
    assert result.output.startswith("dims_zero/config.pbtxt: error: input[0].dims[1]: 0 was given")
    assert "[tensor-dims]\n1 error, 0 warnings\n" in result.output


def test_a_syntax_error_has_line_and_column() -> None:
    assert check(BAD / "syntax-error").output.startswith("syntax_error/config.pbtxt: error: 6:1: ")


def test_json_is_a_list_of_problems() -> None:
    result = check(BAD / "dims-zero", "--output", "json")
    (row,) = json.loads(result.output)
    assert result.exit_code == 1
    assert row.pop("message")
    assert row == {
        "path": "input[0].dims[1]", "rule": "tensor-dims", "severity": "error",
        "model": "dims_zero", "file": "dims_zero/config.pbtxt",
    }  # fmt: skip
    assert json.loads(check(VALID / "dynamic-policy", "--output", "json").output) == []


def test_one_models_directory_is_checked_with_its_neighbours() -> None:
    assert check(VALID / "ensemble-chain" / "ensemble_chain").exit_code == 0
    result = check(BAD / "ensemble-step-unknown" / "ensemble_step_unknown")
    assert result.exit_code == 1
    assert "[ensemble-model]" in result.output


def test_a_single_file_is_checked_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text('name: "a" backend: "identity" max_batch_size: -1')
    result = check(file)
    assert result.exit_code == 1
    assert f"{file}: error: max_batch_size: " in result.output


@pytest.mark.parametrize(
    ("case", "options", "code"),
    [
        (BAD / "gpu-without-gpu", [], 0),
        (BAD / "gpu-without-gpu", ["--gpus", "0"], 1),
        (BAD / "gpu-without-gpu", ["--gpus", "1"], 0),
        (BAD / "newer-field-metrics", [], 1),
        (BAD / "newer-field-metrics", ["--server-version", "2.71"], 0),
        (BAD / "unknown-backend", [], 1),
        (BAD / "unknown-backend", ["--backend", "foo"], 0),
        (BAD / "empty-config", [], 1),
        (BAD / "empty-config", ["--auto-complete"], 0),
    ],
)
def test_what_is_known_of_the_server_counts(case: Path, options: list[str], code: int) -> None:
    assert check(case, *options).exit_code == code


@pytest.mark.parametrize("option", ["--cache", "--rate-limit"])
def test_silent_settings_warn_only_where_the_server_lacks_them(option: str) -> None:
    case = BAD / {"--cache": "cache-without-server-cache", "--rate-limit": "rate-limiter-without-server"}[option]
    assert "warning" not in check(case, option).output
    assert "1 warning" in check(case, option.replace("--", "--no-")).output


@pytest.mark.parametrize("arguments", [["missing"], [str(VALID / "dynamic"), "--server-version", "24.10-py3"], []])
def test_a_wrong_command_ends_with_2(arguments: list[str]) -> None:
    assert check(*arguments).exit_code == 2


def test_an_empty_folder_is_no_repository(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.exit_code == 1
    assert "expected <model>/config.pbtxt" in result.output


def test_folders_linked_in_a_circle_end(tmp_path: Path) -> None:
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (tmp_path / "model" / "config.pbtxt").write_text('backend: "identity"\n')
    (version / "again").symlink_to(tmp_path)
    assert check(tmp_path).exit_code == 0


def test_bytes_that_are_no_text_are_a_problem_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    file = tmp_path / "model" / "config.pbtxt"
    file.write_bytes(b"\xff\xfe")
    result = check(tmp_path)
    assert result.exit_code == 1
    assert "not UTF-8" in result.output
    assert check(file).exit_code == 2


def test_an_unsafe_directory_name_is_found_without_a_config(tmp_path: Path) -> None:
    (tmp_path / "a b" / "1").mkdir(parents=True)
    result = check(tmp_path, "--output", "json")
    assert {row["rule"] for row in json.loads(result.output)} == {"config-missing", "unsafe-name"}
