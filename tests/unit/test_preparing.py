"""From what the spec asks for to facts: other openers, gates, refreshes and failures, told in a made-up cluster."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest

from penstock.api.facts import GateResult
from penstock.api.preparation import Needs, PreparationError, PreparationReport
from penstock.api.reasons import Reason
from penstock.core.conditions import timestamp
from penstock.core.names import COMPONENT_LABEL, ObjectKey, key_of
from penstock.core.plan import plan

from .world import DIRECT, SETTINGS, V1, V2, Crash, World, copied, facts, failing, manifest

REPORT = "sha256:" + "d" * 64
NEEDS = PreparationReport(needs=Needs(format="SKLearn", opener="Convert", size_bytes=3 << 30))
PASSED = (GateResult(name="latency.p95", asked="20ms", measured="4.1ms", passed=True),)
MISSED = (GateResult(name="latency.p95", asked="1ms", measured="4.1ms", passed=False),)
LATENCY = {"latency": {"p95": "20ms"}}
STRICT = {"latency": {"p95": "1ms"}}


def made(uri: str = V1, **changes):
    """Facts of what was converted."""
    return facts(uri, derived=True, source_format="SKLearn", **changes)


def serving_world(**spec) -> World:
    return copied(_serving_world(json.dumps(spec)))


@cache
def _serving_world(spec: str) -> World:
    world = World(manifest(V1, traffic=DIRECT, **json.loads(spec)))
    world.settle()
    assert world.status["phase"] == "Available", world.status
    return world


def refreshed_world(**spec) -> World:
    return serving_world(model={"uri": V1, "refresh": "5m"}, **spec)


def jobs(world: World, component: str = "prepare") -> list[dict]:
    found = [item for key, item in sorted(world.objects.items()) if key.kind == "Job"]
    return [item for item in found if item["metadata"]["labels"][COMPONENT_LABEL] == component]


def preparation(world: World) -> dict:
    return world.status["preparation"]


def pass_time(world: World, **length) -> None:
    world.now += timedelta(**length)
    world.settle()


class TestOtherOpener:
    def world(self) -> World:
        world = World(manifest(V1, traffic=DIRECT))
        world.reports[V1, "Basic"] = NEEDS
        world.reports[V1, "Convert"] = PreparationReport(facts=made())
        return world

    def test_content_that_another_image_opens_is_given_to_it_once(self):
        world = self.world()
        world.settle()
        assert world.status["phase"] == "Available"
        assert [(r["opener"], r["format"]) for r in world.requests] == [("Basic", "Auto"), ("Convert", "SKLearn")]
        assert (preparation(world)["opener"], preparation(world)["sourceFormat"]) == ("Convert", "SKLearn")
        (job,) = jobs(world)
        (_, inspect) = job["spec"]["template"]["spec"]["containers"]
        assert inspect["image"] == "convert:1"
        assert inspect["resources"]["requests"]["ephemeral-storage"] == "9280Mi"

    def test_a_format_that_is_written_chooses_at_once(self):
        world = World(manifest(traffic=DIRECT) | {"spec": {"model": {"uri": V1, "format": "SKLearn"}}})
        world.settle()
        assert [r["opener"] for r in world.requests] == ["Convert"]

    @pytest.mark.parametrize("fuse", range(12))
    def test_killed_after_any_write_it_still_looks_once_with_each(self, fuse):
        world = self.world()
        world.fuse = fuse
        with suppress(Crash):
            world.settle()
        world.fuse = None
        world.settle()
        assert world.status["phase"] == "Available"
        assert [r["opener"] for r in world.requests] == ["Basic", "Convert"]

    def test_an_opener_that_asks_for_yet_another_one_has_failed(self):
        world = self.world()
        world.reports[V1, "Convert"] = PreparationReport(needs=Needs(format="SavedModel", opener="TensorFlow"))
        for _ in range(8):
            world.reconcile()
            world.step()
        assert world.condition("Stalled")["reason"] == "PreparationFailed"
        assert "SavedModel needs TensorFlow" in world.condition("Stalled")["message"]
        assert {r["opener"] for r in world.requests} == {"Basic", "Convert"}

    def test_a_format_served_by_another_backend_is_measured_in_its_server(self):
        world = World(manifest(V1, traffic=DIRECT, gates=LATENCY))
        world.reports[V1] = PreparationReport(needs=Needs(format="OpenVINO", opener="Basic"))
        for _ in range(3):
            world.reconcile()
            world.step()
        world.reports[V1] = PreparationReport(facts=facts(format="OpenVINO"), gates=PASSED)
        for key in [key for key in world.objects if key.kind == "Job"]:
            del world.objects[key]
        world.settle()
        (job,) = jobs(world)
        (server,) = job["spec"]["template"]["spec"]["initContainers"]
        assert (server["image"], server["restartPolicy"]) == ("openvino:1", "Always")
        live = world.objects[ObjectKey("Deployment", "vision", world.status["stable"]["revision"])]
        assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "openvino:1"

    def test_an_image_that_the_installation_lacks_is_named_by_the_charts_value(self):
        world = World(manifest(traffic=DIRECT) | {"spec": {"model": {"uri": V1, "format": "SavedModel"}}})
        world.settle()
        assert jobs(world) == []
        assert world.condition("Stalled")["reason"] == "ImageUnavailable"
        assert "images.tensorflow" in world.condition("Stalled")["message"]
        settled = world.writes
        world.settle()
        assert world.writes == settled
        world.settings = type(world.settings)(jobs_image="j", triton_image="t", tensorflow_image="tf:1")
        world.settle()
        assert world.status["phase"] == "Available"

    @pytest.mark.parametrize("layer", ["the same", "another"])
    def test_a_lost_artifact_is_made_again_as_it_came_out(self, layer):
        world = self.world()
        came_out = made(precision="INT8")
        world.reports[V1, "Convert"] = PreparationReport(facts=came_out, gates=PASSED)
        world.edit(optimize={"precision": "Auto", "minSpeedup": "1.5"}, gates=LATENCY)
        world.settle()
        revision = world.status["stable"]["revision"]
        if layer == "another":
            other = came_out.artifact.model_copy(update={"manifest": REPORT, "layer": REPORT})
            again = came_out.model_copy(update={"artifact": other})
            world.reports[V1, "Convert"] = PreparationReport(facts=again)
        world.now += timedelta(minutes=5)
        world.lost_artifacts[revision] = timestamp(world.now)
        for _ in range(6):
            world.step()
            world.reconcile()
        request = world.requests[-1]
        assert (request["opener"], request["format"], request["digest"]) == ("Convert", "SKLearn", came_out.digest)
        assert request["optimize"] == {"precision": "INT8", "minSpeedup": "1"}
        assert "gates" not in request
        assert [r["opener"] for r in world.requests] == ["Basic", "Convert", "Convert"]
        reason = "ArtifactMissing" if layer == "the same" else "DigestMismatch"
        assert world.condition("Ready")["reason"] == reason


class TestGates:
    def test_what_gates_measured_stands_in_status_and_is_told_once(self):
        world = World(manifest(V1, traffic=DIRECT, gates=LATENCY))
        world.reports[V1] = PreparationReport(facts=facts(V1, report=REPORT), gates=PASSED, report=REPORT)
        world.settle()
        (gate,) = preparation(world)["gates"]
        assert gate == {"name": "latency.p95", "asked": "20ms", "measured": "4.1ms", "passed": True}
        assert preparation(world)["report"] == REPORT
        assert [message for reason, message in world.events if reason == "Prepared"] == [
            "all gates passed: latency.p95 4.1ms"
        ]

    def test_a_failed_gate_leaves_stable_alone_and_waits_for_a_change(self):
        world = serving_world()
        stable = world.status["stable"]
        world.reports[V1] = PreparationReport(
            error=PreparationError(reason=Reason.LATENCY_FAILED, message="p95 4.1ms, 1ms was asked for"),
            gates=MISSED,
            report=REPORT,
        )
        world.edit(gates=STRICT)
        world.settle()
        assert (world.status["phase"], world.condition("Stalled")["reason"]) == ("Failed", "LatencyFailed")
        assert world.condition("Available")["status"] == "True"
        assert world.condition("Reconciling") is None
        assert "4.1ms" in world.condition("Ready")["message"]
        assert world.status["stable"] == stable
        assert preparation(world)["gates"][0]["passed"] is False
        assert preparation(world)["report"] == REPORT
        writes = world.writes
        pass_time(world, hours=3)
        assert world.writes == writes

    def test_a_changed_gate_is_measured_and_moves_nobody(self):
        world = serving_world()
        stable = world.status["stable"]
        world.reports[V1] = PreparationReport(facts=facts(V1, report=REPORT), gates=PASSED, report=REPORT)
        world.log.clear()
        world.edit(gates=LATENCY)
        world.settle()
        assert world.status["phase"] == "Available"
        assert world.status["stable"] == stable
        assert preparation(world)["gates"][0]["measured"] == "4.1ms"
        assert {line.split()[1] for line in world.log if line.startswith("apply")} <= {"Job", "NetworkPolicy"}
        world.objects = {key: item for key, item in world.objects.items() if key.kind != "Job"}
        world.log.clear()
        world.settle()
        assert world.log == []
        assert preparation(world)["gates"][0]["measured"] == "4.1ms"

    def test_a_gate_that_was_lowered_lets_the_revision_through(self):
        world = serving_world()
        world.reports[V2] = failing(Reason.LATENCY_FAILED)
        world.edit(model={"uri": V2}, gates=STRICT)
        world.settle()
        assert world.condition("Stalled")["reason"] == "LatencyFailed"
        world.reports[V2] = PreparationReport(facts=facts(V2), gates=PASSED)
        world.edit(gates=LATENCY)
        world.settle()
        assert world.status["stable"]["uri"] == V2

    @pytest.mark.parametrize(
        ("gates", "change", "runs"),
        [
            (LATENCY, {"server": {"instances": {"count": 2}}}, 2),
            (LATENCY, {"pod": {"env": [{"name": "A", "value": "b"}]}}, 2),
            (LATENCY, {"prepare": {"timeout": "10m"}}, 1),
            ({"size": {"max": "1Gi"}}, {"server": {"instances": {"count": 2}}}, 1),
        ],
    )
    def test_what_is_measured_again(self, gates, change, runs):
        world = serving_world(gates=gates)
        world.edit(**change)
        world.settle()
        assert len(world.requests) == runs
        assert world.status["phase"] == "Available"

    def test_status_stays_below_16_kib(self):
        long = tuple(
            GateResult(name=f"gate-{n}" * 4, asked="a" * 64, measured="m" * 160, passed=True) for n in range(16)
        )
        world = World(manifest(V1, gates=LATENCY))
        known = facts(V1, warnings=tuple("w" * 300 for _ in range(16)))
        noisy = PreparationReport(facts=known, gates=long, report=REPORT, resolved="r" * 256)
        world.reports[V1] = noisy
        world.settle()
        assert world.status["phase"] == "Available"
        assert len(json.dumps(preparation(world))) < 7000


class TestRefresh:
    def test_the_source_is_asked_each_period_and_nothing_else_happens(self):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        pass_time(world, minutes=6)
        world.log.clear()
        before = world.status
        for _ in range(4):
            pass_time(world, minutes=5, seconds=5)
        assert world.log == ["delete Job " + jobs(world, "resolve")[0]["metadata"]["name"],
                             "apply Job " + jobs(world, "resolve")[0]["metadata"]["name"]] * 4  # fmt: skip
        assert world.status == before

    def test_it_sleeps_until_the_next_one_is_due(self):
        world = refreshed_world()
        pass_time(world, minutes=6)
        found = plan(world.observe(), world.now)
        assert (found.writes, found.deletes) == ((), ())
        assert timedelta(minutes=4) < found.wake - world.now <= timedelta(minutes=5)

    def test_a_new_meaning_with_new_content_is_a_new_revision(self):
        world = World(manifest(traffic=DIRECT) | {"spec": {"model": {"uri": V1, "refresh": "5m"}, "traffic": DIRECT}})
        world.reports[V1] = PreparationReport(facts=facts(V1), resolved="version 1")
        world.meanings[V1] = "version 1"
        world.settle()
        old = world.status["stable"]["revision"]
        assert preparation(world)["resolved"] == "version 1"
        pass_time(world, minutes=6)
        assert len(world.requests) == 1
        world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts(V2), resolved="version 2"), "version 2"
        pass_time(world, minutes=6)
        assert world.status["stable"]["revision"] != old
        assert preparation(world)["resolved"] == "version 2"
        assert len(world.requests) == 2
        del world.deployment["status"]
        world.settle()
        assert world.status["stable"]["digest"] == facts(V2).digest
        assert len(world.requests) == 2
        assert preparation(world)["resolved"] == "version 2"

    def test_a_new_meaning_with_the_same_content_moves_nobody(self):
        world = refreshed_world()
        world.meanings[V1] = "etag a"
        pass_time(world, minutes=6)
        before = world.status["stable"]
        world.meanings[V1] = "etag b"
        pass_time(world, minutes=6)
        assert world.status["stable"] == before
        assert preparation(world)["resolved"] == "etag b"

    def test_a_source_that_cannot_be_asked_harms_nobody_and_is_told_once(self):
        world = refreshed_world()
        world.meanings[V1] = "etag a"
        pass_time(world, minutes=6)
        runs = len(world.requests)
        world.meanings[V1] = failing(Reason.SOURCE_UNAVAILABLE, "no route to host")
        for _ in range(3):
            pass_time(world, minutes=6)
        assert world.status["phase"] == "Available"
        assert "no route to host" in preparation(world)["refreshFailure"]
        assert [reason for reason, _ in world.events].count("RefreshFailed") == 1
        world.meanings[V1] = "etag a"
        pass_time(world, minutes=6)
        assert "refreshFailure" not in preparation(world)
        assert len(world.requests) == runs

    def test_a_refresh_mends_what_no_pause_does(self):
        world = World(manifest() | {"spec": {"model": {"uri": V1, "refresh": "5m"}, "traffic": DIRECT}})
        world.meanings[V1] = "version 1"
        broken = PreparationError(reason=Reason.INVALID_MODEL, message="damaged")
        world.reports[V1] = PreparationReport(error=broken, resolved="version 1")
        world.settle()
        pass_time(world, minutes=6)
        assert (world.condition("Stalled")["reason"], len(world.requests)) == ("InvalidModel", 1)
        world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts(V2)), "version 2"
        pass_time(world, minutes=6)
        assert world.status["phase"] == "Available"

    def test_a_refreshed_content_that_fails_leaves_stable_alone(self):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        stable = world.status["stable"]
        world.reports[V1], world.meanings[V1] = failing(Reason.PARITY_FAILED), "version 2"
        pass_time(world, minutes=6)
        assert world.condition("Stalled")["reason"] == "ParityFailed"
        assert world.status["stable"] == stable

    @pytest.mark.parametrize("change", [{"model": {"uri": V1}}, {"model": {"uri": V2, "refresh": "5m"}}])
    def test_jobs_that_ask_what_nobody_wants_to_know_go(self, change):
        world = refreshed_world()
        pass_time(world, minutes=6)
        (old,) = jobs(world, "resolve")
        world.edit(**change)
        world.settle()
        assert old["metadata"]["name"] not in world.names("Job")

    def test_back_to_an_earlier_source_it_serves_what_that_meant_last(self):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts("new")), "version 2"
        pass_time(world, minutes=6)
        newest = world.status["stable"]["revision"]
        world.point_to(V2)
        world.settle()
        runs = len(world.requests)
        world.point_to(V1)
        world.settle()
        assert world.status["stable"]["revision"] == newest
        assert len(world.requests) == runs

    @pytest.mark.parametrize("fuse", range(14))
    def test_killed_after_any_write_it_finds_the_new_meaning(self, fuse):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts(V2)), "version 2"
        world.fuse = fuse
        with suppress(Crash):
            pass_time(world, minutes=6)
        world.fuse = None
        world.settle()
        assert world.status["stable"]["digest"] == facts(V2).digest
        assert preparation(world)["resolved"] == "version 2"

    def test_a_question_that_may_not_be_put_is_in_nobodys_way(self):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        (job,) = jobs(world, "resolve")
        del world.objects[key_of(job)]
        world.now += timedelta(minutes=6)
        refused = {key_of(job): (Reason.QUOTA_EXCEEDED, "exceeded quota")}
        found = plan(replace(world.observe(), obstacles=refused), world.now)
        assert found.writes == ()
        assert {c.type: c.status for c in found.status.conditions}["Ready"] == "True"
        assert [w.manifest["kind"] for w in plan(world.observe(), world.now).writes] == ["Job"]

    @pytest.mark.parametrize("known", [1, 2])
    def test_a_clock_that_is_set_back_does_not_put_it_off(self, known):
        """Neither the question nor its answer; the Job of before the clock was set back tells nothing old meanwhile."""
        world = refreshed_world()
        for version in range(1, known + 1):
            world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts(str(version))), f"version {version}"
            pass_time(world, minutes=6)
        runs = len(world.requests)
        world.reports[V1], world.meanings[V1] = PreparationReport(facts=facts("next")), "version next"
        world.now -= timedelta(days=2)
        pass_time(world, minutes=6)
        assert preparation(world)["resolved"] == "version next"
        assert world.status["stable"]["digest"] == facts("next").digest
        assert len(world.requests) == runs + 1
        (job,) = jobs(world, "resolve")
        pass_time(world, minutes=4)
        assert jobs(world, "resolve") == [job]

    def test_clocks_that_differ_by_minutes_make_no_job_after_job(self):
        world = refreshed_world()
        world.meanings[V1] = "version 1"
        pass_time(world, minutes=6)
        before = jobs(world, "resolve")
        world.now -= timedelta(minutes=40)
        pass_time(world, minutes=6)
        assert jobs(world, "resolve") == before

    def test_pinned_content_is_not_asked_for(self):
        pinned = {"uri": V1, "refresh": "5m", "digest": facts(V1).digest}
        world = World(manifest() | {"spec": {"model": pinned, "traffic": DIRECT}})
        world.settle()
        pass_time(world, hours=1)
        assert jobs(world, "resolve") == []


MEANS = {
    "more memory": {"prepare": {"resources": {"limits": {"memory": "8Gi"}}}},
    "more time": {"prepare": {"timeout": "2h"}},
    "another node": {"prepare": {"pod": {"nodeSelector": {"disk": "large"}}}},
    "a token": {"rollout": {"retryToken": "1"}},
    "the chart's limit": replace(SETTINGS, max_model_bytes=1 << 40),
    "another release": replace(SETTINGS, jobs_image="jobs:2"),
}


class TestOtherMeans:
    """What a failure says has to be raised lies outside of what names a preparation."""

    def failed(self) -> World:
        world = serving_world()
        world.reports[V2] = failing(Reason.PREPARATION_OUT_OF_MEMORY)
        world.point_to(V2)
        world.settle()
        assert world.status["phase"] == "Failed"
        return world

    def give(self, world: World, means) -> None:
        if isinstance(means, dict):
            world.edit(**means)
        else:
            world.settings = means

    @pytest.mark.parametrize("means", MEANS)
    def test_a_failure_is_tried_again_at_once_with_other_means(self, means):
        world = self.failed()
        world.reports[V2] = PreparationReport(facts=facts(V2))
        self.give(world, MEANS[means])
        world.reconcile()
        assert world.status["phase"] == "Preparing"
        assert world.condition("Stalled") is None
        world.settle()
        assert (world.status["phase"], world.status["stable"]["uri"]) == ("Available", V2)

    @pytest.mark.parametrize("means", MEANS)
    def test_with_the_same_means_and_for_the_same_reason_it_is_tried_once(self, means):
        world = self.failed()
        self.give(world, MEANS[means])
        world.settle()
        runs, writes = len(world.requests), world.writes
        assert world.status["phase"] == "Failed"
        assert preparation(world)["attempt"] == 1
        pass_time(world, hours=3)
        world.edit(replicas=2)
        world.settle()
        assert (len(world.requests), world.status["phase"]) == (runs, "Failed")
        assert world.writes > writes

    def test_what_was_raised_while_it_still_ran_counts(self):
        world = serving_world()
        world.reports[V2] = failing(Reason.PREPARATION_OUT_OF_MEMORY)
        world.point_to(V2)
        world.reconcile()
        assert jobs(world)
        world.edit(**MEANS["more memory"])
        world.step()
        world.reports[V2] = PreparationReport(facts=facts(V2))
        world.settle()
        assert world.status["stable"]["uri"] == V2

    def test_a_pause_ends_with_other_means(self):
        world = serving_world()
        world.reports[V2] = failing(Reason.PREPARATION_TIMEOUT)
        world.point_to(V2)
        for _ in range(6):
            pass_time(world, minutes=11)
        assert preparation(world)["attempt"] > 4
        world.reports[V2] = PreparationReport(facts=facts(V2))
        world.edit(**MEANS["more time"])
        world.settle()
        assert world.status["stable"]["uri"] == V2

    def test_a_failure_of_a_release_that_did_not_note_the_means_stays(self):
        world = self.failed()
        del world.status["preparation"]["means"]
        runs = len(world.requests)
        world.settle()
        assert (len(world.requests), world.status["phase"]) == (runs, "Failed")
        world.reports[V2] = PreparationReport(facts=facts(V2))
        world.edit(**MEANS["more memory"])
        world.settle()
        assert world.status["stable"]["uri"] == V2

    @pytest.mark.parametrize("fuse", range(6))
    def test_killed_after_any_write_it_is_tried_once_more(self, fuse):
        world = self.failed()
        runs = len(world.requests)
        world.reports[V2] = PreparationReport(facts=facts(V2))
        world.edit(**MEANS["more memory"])
        world.fuse = fuse
        with suppress(Crash):
            world.settle()
        world.fuse = None
        world.settle()
        assert world.status["stable"]["uri"] == V2
        assert len(world.requests) == runs + 1

    def test_a_clock_that_is_set_back_puts_no_try_off(self):
        world = serving_world()
        world.reports[V2] = failing(Reason.SOURCE_UNAVAILABLE)
        world.point_to(V2)
        world.settle()
        world.now -= timedelta(days=30)
        world.reports[V2] = PreparationReport(facts=facts(V2))
        pass_time(world, minutes=11)
        assert world.status["stable"]["uri"] == V2

    @pytest.mark.parametrize("pod", ["is placed nowhere", "has no image", "is not made"])
    def test_a_job_that_cannot_start_is_made_anew_with_other_means(self, pod):
        world = serving_world()
        world.point_to(V2)
        world.reconcile()
        job = self.hold_up(world, pod)
        world.run(15)
        assert jobs(world)[-1] is job, "nothing has changed"
        world.edit(**MEANS["more memory"])
        world.settle()
        assert world.status["stable"]["uri"] == V2
        assert len(world.requests) == 2, "of V1 and of V2"

    def test_a_job_that_a_queue_holds_back_says_so(self):
        world = serving_world()
        world.point_to(V2)
        world.reconcile()
        job = self.hold_up(world, "is not made")
        job["spec"]["suspend"] = True
        world.run(15)
        assert "is suspended, as a queue does" in world.condition("Reconciling")["message"]
        job["spec"]["suspend"] = False
        world.run(1)
        assert "has made no pod" in world.condition("Reconciling")["message"]

    def test_a_job_at_work_ends_with_the_means_that_it_has(self):
        world = serving_world()
        world.point_to(V2)
        world.reconcile()
        job = self.hold_up(world, "works")
        world.edit(**MEANS["more memory"])
        world.run(15)
        assert job in jobs(world)

    def hold_up(self, world: World, what: str) -> dict:
        """The Job under way, with a pod in which nothing has begun."""
        job = next(job for job in jobs(world) if "status" not in job)
        job["status"] = {} if what == "is not made" else {"active": 1}
        nowhere = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "insufficient memory"}]}
        state = {"running": {}} if what == "works" else {"waiting": {"reason": "ImagePullBackOff", "message": "none"}}
        if what != "is not made":
            owners = [{"uid": job["metadata"]["uid"]}]
            status = (
                nowhere if what == "is placed nowhere" else {"containerStatuses": [{"name": "inspect", "state": state}]}
            )
            metadata = {"labels": {}, "ownerReferences": owners}
            world.pods["held-up"] = {"owner": key_of(job), "metadata": metadata, "status": status}
        return job


class TestRefused:
    """Content that this installation or the spec cannot serve."""

    def world(self) -> World:
        world = serving_world()
        world.settings = replace(SETTINGS, server_images={})
        world.reports[V2] = PreparationReport(facts=facts(V2, format="OpenVINO"))
        world.point_to(V2)
        world.settle()
        assert world.condition("Stalled")["reason"] == "InvalidConfig"
        for key in [key for key in world.objects if key.kind == "Job"]:
            del world.objects[key]
        return world

    def test_it_is_not_prepared_again_each_time_its_job_has_gone(self):
        world = self.world()
        phases = set()
        for _ in range(5):
            world.reconcile()
            world.step()
            phases.add((world.status["phase"], world.condition("Stalled")["reason"]))
        assert phases == {("Failed", "InvalidConfig")}
        assert len(world.requests) == 2, "of V1 and of V2"

    @pytest.mark.parametrize("by", ["the spec", "the installation"])
    def test_it_is_once_it_may_be_served(self, by):
        world = self.world()
        world.settle()
        if by == "the spec":
            world.edit(server={"image": "openvino:2"})
        else:
            world.settings = SETTINGS
        world.settle()
        assert world.status["stable"]["uri"] == V2
        assert "reason" not in preparation(world)
