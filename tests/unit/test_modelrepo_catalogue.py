"""The catalogue of bad and valid configs: our verdicts against what a real tritonserver answered."""

from collections import Counter
from fractions import Fraction

import pytest

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import RULES, ServerSettings, build_repository, resolve_settings
from tests.catalogue.cases import Case, load_answers, load_cases

BAD = load_cases("bad")
VALID = load_cases("valid")
ANSWERS = load_answers()


def by_id(case: Case) -> str:
    return case.id


@pytest.mark.parametrize("case", BAD, ids=by_id)
def test_a_bad_config_is_named_at_its_field(case: Case) -> None:
    found = [item.problem for item in case.check()]
    named = [problem for problem in found if problem.rule == case.rule]
    assert named, f"expected {case.rule}, found {found}"
    assert case.path is None or case.path in [problem.path for problem in named]
    assert all(problem.message for problem in found)


@pytest.mark.parametrize("case", BAD, ids=by_id)
def test_a_bad_config_of_ours_is_an_error(case: Case) -> None:
    assert "error" in {item.problem.severity for item in case.check(strict=True) if item.problem.rule == case.rule}


def test_nothing_that_the_server_refuses_is_missed() -> None:
    refused = [case for case in BAD if ANSWERS[case.id]["code"] != 200]
    missed = [case.id for case in refused if "error" not in {item.problem.severity for item in case.check()}]
    assert missed == []


def test_what_the_server_accepts_and_misreads_warns() -> None:
    misread = [case for case in BAD if ANSWERS[case.id]["code"] == 200 and case.category == "C"]
    assert len(misread) >= 15
    for case in misread:
        found = [item.problem for item in case.check() if item.problem.rule == case.rule]
        assert {problem.severity for problem in found} == {"warning"}, case.id


def test_the_catalogue_is_whole() -> None:
    categories = Counter(case.category for case in BAD)
    assert categories["A"] >= 25
    assert categories["B"] >= 35
    assert categories["C"] >= 15
    assert categories["D"] >= 1
    assert categories["E"] >= 5
    assert len(VALID) >= 100
    assert {case.id for case in (*BAD, *VALID) if not case.offline} == set(ANSWERS)


def test_models_have_names_of_their_own() -> None:
    """They are put to one server all together."""
    names = Counter(path.name for case in (*BAD, *VALID) for path in case.root.iterdir() if path.is_dir())
    assert [name for name, count in names.items() if count > 1] == []


def test_every_rule_has_a_bad_config() -> None:
    enforced = {rule.id for rule in RULES.values() if rule.effect != "advice"}
    assert enforced - {case.rule for case in BAD} == set()


@pytest.mark.parametrize("case", VALID, ids=by_id)
def test_a_valid_config_is_not_refused(case: Case) -> None:
    assert [item for item in case.check() if item.problem.severity == "error"] == []


def test_the_server_serves_every_valid_config() -> None:
    assert [case.id for case in VALID if not case.offline and not ANSWERS[case.id]["ready"]] == []


@pytest.mark.parametrize("case", [case for case in VALID if case.rendered], ids=by_id)
def test_rendering_gives_the_recorded_bytes(case: Case) -> None:
    """From the facts and the specification, and again from the settings a revision record would hold."""
    assert case.rendered is not None
    facts = ModelFacts.model_validate(case.rendered["facts"])
    spec = ServerSpec.model_validate(case.rendered["server"]) if case.rendered["server"] else None
    settings = resolve_settings(spec, facts, Fraction(case.rendered["cpu"]))
    expected = (case.root / case.model / "config.pbtxt").read_text()
    stored = ServerSettings.from_json(settings.to_json())
    assert build_repository(facts, case.model, settings).config_text == expected
    assert build_repository(facts, case.model, stored).config_text == expected
