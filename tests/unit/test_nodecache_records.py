"""Whose pods ask the cache of their node: those of revisions made since the installation has one, and no others."""

from dataclasses import replace

from penstock.core.revision import RevisionRecord

from .world import SETTINGS, World

CACHE = "node-cache.penstock-system:5001"
WITH = replace(SETTINGS, node_cache=CACHE)


def fetches(world: World) -> dict[str, dict[str, str]]:
    """Environment of `fetch` by revision."""
    return {
        key.name: {
            variable["name"]: variable["value"]
            for variable in item["spec"]["template"]["spec"]["initContainers"][0]["env"]
        }
        for key, item in world.objects.items()
        if key.kind == "Deployment"
    }


def test_a_new_revision_asks_the_cache_and_its_record_says_so():
    world = World(settings=WITH)
    world.settle()
    ((name, environment),) = fetches(world).items()
    assert environment["PENSTOCK_NODE_CACHE"] == CACHE
    (record,) = (item for key, item in world.objects.items() if key.kind == "ControllerRevision")
    assert record["data"]["nodeCache"] == CACHE
    assert RevisionRecord.from_manifest(record).to_json() == record["data"]
    assert name == record["metadata"]["name"]


def test_switching_it_on_or_off_writes_nothing_and_names_nothing_anew():
    for before, after in ((SETTINGS, WITH), (WITH, SETTINGS)):
        world = World(settings=before)
        world.settle()
        known, writes = fetches(world), world.writes
        world.settings = after
        world.settle()
        assert (fetches(world), world.writes) == (known, writes)


def test_the_next_revision_takes_it_up():
    world = World(settings=SETTINGS)
    world.settle()
    (old,) = fetches(world)
    world.settings = WITH
    world.point_to("oci://models.example/digits:v2")
    world.run_until(lambda world: len(fetches(world)) == 2)
    found = {name: "PENSTOCK_NODE_CACHE" in environment for name, environment in fetches(world).items()}
    assert found.pop(old) is False
    assert list(found.values()) == [True]
