"""What ends, waits and refusals of pods mean, for preparations and for serving revisions."""

import hashlib
import json

import pytest

from penstock.api.facts import GateResult
from penstock.api.preparation import Needs, PreparationError, PreparationReport
from penstock.api.reasons import Reason
from penstock.api.termination import REPORT_LIMIT
from penstock.core.pipeline import preparation_outcome
from penstock.core.server import serving_failure

from .world import World, facts, manifest

JOB = {"metadata": {"name": "j", "uid": "1"}, "spec": {"activeDeadlineSeconds": 60}, "status": {}}


def pod(container="server", state=None, last=None, restarts=0, conditions=(), **status):
    item = {"name": container, "state": state or {}, "lastState": last or {}, "restartCount": restarts}
    return {"metadata": {"labels": {}}, "status": {"containerStatuses": [item], "conditions": conditions, **status}}


def ended(code=1, message="", reason="Error"):
    return {
        "terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": "2026-01-01T00:00:00Z"}
    }


def waits(reason, message="why"):
    return {"waiting": {"reason": reason, "message": message}}


UNPLACED = ({"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu."},)
MISSING = json.dumps({"reason": "ArtifactMissing", "message": "no blob sha256:1"})


@pytest.mark.parametrize(
    ("item", "reason", "final", "words"),
    [
        (pod(state=ended(message="failed to load 'digits'")), Reason.LOAD_FAILED, True, "failed to load 'digits'"),
        (pod(state=waits("CrashLoopBackOff"), last=ended(message="bad"), restarts=1), Reason.LOAD_FAILED, True, "bad"),
        (pod(state=ended(reason="OOMKilled")), Reason.CRASHING, False, "resources.limits.memory"),
        (pod(state=ended(reason="OOMKilled"), restarts=2), Reason.CRASHING, True, "resources.limits.memory"),
        (pod(state=ended(139), restarts=0), Reason.CRASHING, False, "code 139"),
        (pod(state=ended(139), restarts=2), Reason.CRASHING, True, "code 139"),
        (pod("fetch", state=ended(message=MISSING)), Reason.ARTIFACT_MISSING, False, "sha256:1"),
        (pod("fetch", state=ended(message="Traceback")), Reason.STORE_UNAVAILABLE, False, "Traceback"),
        (pod(state=waits("ImagePullBackOff")), Reason.IMAGE_UNAVAILABLE, False, "ImagePullBackOff"),
        (pod(state=waits("CreateContainerConfigError")), Reason.NOT_SERVING, False, "CreateContainerConfigError"),
        (pod(conditions=UNPLACED), Reason.UNSCHEDULABLE, False, "Insufficient cpu"),
    ],
)
def test_a_serving_pod_says_why_it_does_not_serve(item, reason, final, words):
    failure = serving_failure({}, (item,))
    assert (failure.reason, failure.final) == (reason, final)
    assert words in failure.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', Reason.QUOTA_EXCEEDED),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', Reason.POD_REFUSED),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Gi', Reason.POD_REFUSED),
    ],
)
def test_a_refused_pod_is_told_in_the_api_servers_words(message, reason):
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    failure = serving_failure({"status": {"conditions": [condition]}}, ())
    assert failure.reason is reason
    assert message in failure.message


@pytest.mark.parametrize("state", [{"running": {}}, waits("ContainerCreating"), waits("PodInitializing"), {}])
def test_a_pod_on_its_way_is_no_failure(state):
    assert serving_failure({}, (pod(state=state),)) is None


def test_what_cannot_pass_is_told_before_what_may():
    found = serving_failure({}, (pod(conditions=UNPLACED), pod(state=ended(message="cannot load"))))
    assert found.reason is Reason.LOAD_FAILED


@pytest.mark.parametrize(
    ("item", "reason", "failed"),
    [
        (pod("inspect", state=ended(137, reason="OOMKilled")), Reason.PREPARATION_OUT_OF_MEMORY, True),
        (pod("inspect", state=ended(1, "Traceback")), Reason.PREPARATION_FAILED, True),
        (pod("transfer", state=waits("ErrImagePull")), Reason.IMAGE_UNAVAILABLE, False),
        (pod("transfer", conditions=UNPLACED), Reason.UNSCHEDULABLE, False),
        (pod("transfer", state={"running": {}}), Reason.PREPARING, False),
        (pod("transfer", state={}, reason="Evicted", message="disk"), Reason.PREPARATION_EVICTED, True),
    ],
)
def test_a_preparation_pod_says_how_it_stands(item, reason, failed):
    outcome = preparation_outcome(JOB, (item,))
    assert (outcome.reason, outcome.failed, outcome.facts) == (reason, failed, None)
    assert outcome.message


RAISE = "raise spec.prepare.resources.limits.memory"
FIXED = "which is the same for every model"


@pytest.mark.parametrize(
    ("container", "advice", "not_said"),
    [
        ("inspect", RAISE, FIXED),
        ("hook", f"the container of spec.optimize.hook needed more memory than its limit; {RAISE}", FIXED),
        ("metric", RAISE, FIXED),
        ("metric-source", RAISE, FIXED),
        ("transfer", FIXED, RAISE),
        ("fetch", FIXED, RAISE),
        ("measure", "spec.gates.dataset", RAISE),
        ("istio-proxy", "what adds that container to the pod", RAISE),
    ],
)
def test_who_ran_out_of_memory_is_told_what_can_be_done_about_his_limit(container, advice, not_said):
    limits = [
        {"name": name, "resources": {"limits": {"memory": memory}}}
        for name, memory in (("transfer", "384Mi"), ("fetch", "384Mi"), ("measure", "1Gi"))
    ]
    job = {
        **JOB,
        "spec": {"template": {"spec": {"initContainers": limits[1:2], "containers": limits[:1] + limits[2:]}}},
    }
    message = preparation_outcome(job, (pod(container, state=ended(137, reason="OOMKilled")),)).message
    assert advice in message
    assert not_said not in message
    known = next((item["resources"]["limits"]["memory"] for item in limits if item["name"] == container), "")
    assert known in message
    assert len(message) < 600


def test_what_is_advised_has_an_effect_on_the_container_that_it_is_advised_for():
    """Whose limits follow from spec.prepare.resources, and whose are ours, is asked of the Job itself."""
    asked = {"prepare": {"resources": {"limits": {"memory": "7Gi"}}}}
    dataset = {"uri": "s3://models/rows.npz"}
    hook = {"image": "mine:1"}
    gates = {"dataset": dataset, "latency": {"p95": "20ms"}, "accuracy": {"image": "mine:2", "maxDropPercent": "1"}}
    world = World(manifest(**asked, optimize={"hook": hook}, gates=gates))
    world.reconcile()
    job = next(item for key, item in world.objects.items() if key.kind == "Job")
    spec = job["spec"]["template"]["spec"]
    limits = {
        item["name"]: item["resources"]["limits"]["memory"]
        for item in (*spec["initContainers"], *spec["containers"])
        if item["name"] != "server"
    }
    assert {"fetch", "transfer", "inspect", "measure", "hook", "metric", "metric-source"} == set(limits)
    for container, limit in limits.items():
        ended_so = pod(container, state=ended(137, reason="OOMKilled"))
        assert (RAISE in preparation_outcome(job, (ended_so,)).message) is (limit == "7Gi"), container


def test_a_report_is_read_before_the_job_knows_that_its_pod_has_ended():
    report = PreparationReport(facts=facts())
    outcome = preparation_outcome(JOB, (pod("transfer", state=ended(0, report.encode(), "Completed")),))
    assert outcome.facts == facts()


def test_a_reported_error_beats_the_exit_code_of_the_other_container():
    report = PreparationReport(error=PreparationError(reason=Reason.DIGEST_MISMATCH, message="a, not b"))
    both = pod("transfer", state=ended(1, report.encode()))
    both["status"]["containerStatuses"].insert(0, {"name": "inspect", "state": ended(143), "lastState": {}})
    outcome = preparation_outcome(JOB, (both,))
    assert (outcome.failed, outcome.reason, outcome.message) == (True, Reason.DIGEST_MISMATCH, "a, not b")


REPORTS = {
    "facts": PreparationReport(facts=facts()),
    "error": PreparationReport(error=PreparationError(reason=Reason.PARITY_FAILED, message="3 of 16 rows")),
    "needs": PreparationReport(needs=Needs(format="SKLearn", opener="Convert")),
    "resolved": PreparationReport(resolved="version 3"),
}


@pytest.mark.parametrize("container", ["transfer", "fetch", "inspect", "measure", "hook", "metric", "server"])
@pytest.mark.parametrize("said", REPORTS)
def test_whose_word_counts(container, said):
    end = ended(0 if said in ("facts", "resolved") else 1, REPORTS[said].encode())
    outcome = preparation_outcome(JOB, (pod(container, state=end),))
    believed = container == "transfer" or (container in ("fetch", "inspect", "measure") and said in ("error", "needs"))
    assert (outcome.facts is not None) is (believed and said == "facts")
    assert (outcome.needs is not None) is (believed and said == "needs")
    assert (outcome.resolved is not None) is (believed and said == "resolved")
    assert (outcome.reason is Reason.PARITY_FAILED) is (believed and said == "error")


def test_what_gates_measured_comes_with_the_failure():
    gate = GateResult(name="size", asked="1Mi", measured="3.2 MiB", passed=False)
    error = PreparationError(reason=Reason.SIZE_FAILED, message="3.2 MiB, 1Mi was asked for")
    report = PreparationReport(error=error, gates=(gate,), report="sha256:" + "a" * 64, resolved="e" * 200)
    outcome = preparation_outcome(JOB, (pod("transfer", state=ended(1, report.encode())),))
    assert (outcome.gates, outcome.report) == ((gate,), "sha256:" + "a" * 64)
    assert len(outcome.resolved) < 80


def test_a_report_that_was_cut_off_is_not_called_a_pod_that_was_removed():
    """What a kubelet makes of a long message in a pod with many containers; the Job has ended well all the same."""
    text = PreparationReport(facts=facts(warnings=("x" * 100,) * 30)).encode()[:-40]
    job = {**JOB, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    outcome = preparation_outcome(job, (pod("transfer", state=ended(0, text, "Completed")),))
    assert (outcome.failed, outcome.reason) == (True, Reason.PREPARATION_FAILED)
    assert f"{len(text)} bytes" in outcome.message
    assert "12 KiB" in outcome.message


def test_a_server_that_is_started_again_is_the_business_of_who_measures_it():
    item = pod("transfer", state={"running": {}})
    killed = {"state": {"running": {}}, "lastState": ended(137, reason="OOMKilled"), "restartCount": 1}
    item["status"]["initContainerStatuses"] = [{"name": "server", **killed}]
    assert not preparation_outcome(JOB, (item,)).failed


def test_a_pod_that_fits_nowhere_says_what_it_asks_for():
    def asks(name, memory, **more):
        requests = {"cpu": "50m", "memory": memory, "ephemeral-storage": "1Gi"}
        return {"name": name, "resources": {"requests": requests}, **more}

    spec = {
        "initContainers": [asks("hook", "3Gi"), asks("server", "1Gi", restartPolicy="Always")],
        "containers": [asks("transfer", "64Mi"), asks("inspect", "512Mi")],
    }
    job = {**JOB, "spec": {"template": {"spec": spec}}}
    message = preparation_outcome(job, (pod("transfer", conditions=UNPLACED),)).message
    assert "it asks for 0.15 of cpu, 3072Mi of ephemeral-storage, 3072Mi of memory" in message


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}, Reason.PREPARATION_TIMEOUT),
        ({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}, Reason.PREPARATION_FAILED),
        ({"type": "Complete", "status": "True"}, Reason.PREPARATION_FAILED),
    ],
)
def test_a_job_that_ended_without_a_report_has_failed(condition, reason):
    outcome = preparation_outcome({**JOB, "status": {"conditions": [condition]}}, ())
    assert (outcome.failed, outcome.reason) == (True, reason)


TRACEBACK = "Traceback (most recent call last):\n" + "  File x, line 1, in y\n" * 80 + "URLError: no route to weights\n"


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ("hook", "spec.optimize.hook"),
        ("metric", "spec.gates.accuracy.image"),
        ("metric-source", "spec.gates.accuracy.image"),
        ("inspect", "the inspect container"),
    ],
)
def test_who_ended_a_preparation_is_told_with_its_last_words(container, field):
    message = preparation_outcome(JOB, (pod(container, state=ended(3, TRACEBACK)),)).message
    assert field in message
    assert "code 3" in message
    assert message.endswith("URLError: no route to weights")
    assert len(message) <= 600, "a condition has no more"


def test_an_image_of_the_user_that_says_nothing_is_told_all_the_same():
    message = preparation_outcome(JOB, (pod("metric", state=ended(7)),)).message
    assert "spec.gates.accuracy.image ended with code 7" in message


HUNG = {**JOB, "status": {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]}}


@pytest.mark.parametrize(
    ("state", "leaving", "words"),
    [
        ({"running": {}}, False, "the container of spec.optimize.hook was still running"),
        (ended(137), True, "the container of spec.optimize.hook was still running"),
        (ended(0), True, "look at the Job's pods"),
        (waits("PodInitializing"), True, "look at the Job's pods"),
    ],
)
def test_a_deadline_names_the_container_that_used_it_up(state, leaving, words):
    item = pod("transfer", state=waits("PodInitializing"))
    item["status"]["initContainerStatuses"] = [
        {"name": "fetch", "state": ended(0), "lastState": {}},
        {"name": "server", "state": {"running": {}}, "lastState": {}},
        {"name": "hook", "state": state, "lastState": {}},
    ]
    if leaving:
        item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    outcome = preparation_outcome(HUNG, (item,))
    assert (outcome.failed, outcome.reason) == (True, Reason.PREPARATION_TIMEOUT)
    assert words in outcome.message
    assert "60 s" in outcome.message
    assert "spec.prepare.timeout" in outcome.message


def test_where_several_wait_for_each_other_a_deadline_blames_none():
    both = pod("transfer", state={"running": {}})
    both["status"]["containerStatuses"].append({"name": "inspect", "state": {"running": {}}, "lastState": {}})
    assert "still running" not in preparation_outcome(HUNG, (both,)).message


def test_a_large_report_is_compressed_and_one_too_large_is_refused():
    tensors = tuple({"name": f"input_{n}", "data_type": "FP32", "dims": (-1, 64, 64)} for n in range(80))
    large = PreparationReport(facts=facts(inputs=tensors))
    text = large.encode()
    assert text.startswith("z:")
    assert len(text) <= REPORT_LIMIT
    assert PreparationReport.decode(text) == large
    noise = tuple(hashlib.sha256(bytes([n])).hexdigest() * 4 for n in range(200))
    with pytest.raises(ValueError, match="4096 fit"):
        PreparationReport(facts=facts(warnings=noise)).encode()


@pytest.mark.parametrize("text", ["", "hello", "{}", "z:AAAA", '{"facts": {"format": "Exe"}}'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(ValueError, match="preparation report"):
        PreparationReport.decode(text)
