"""Events as users see them: accepted by the API server and visible through both event APIs."""

from penstock.kube.client import KubeClient
from penstock.kube.events import EventRecorder
from tests.integration.apiserver import model_deployment


async def test_an_event_is_accepted_and_visible_to_kubectl_describe(client: KubeClient, namespace: str) -> None:
    owner = await client.post(model_deployment(namespace=namespace))
    events = EventRecorder(client, instance="penstock-0")
    events.record(owner, "LoadFailed", "ü" * 2000, warning=True)
    events.record(owner, "LoadFailed", "ü" * 2000, warning=True)
    await events.flush()
    query = [("fieldSelector", f"involvedObject.uid={owner['metadata']['uid']}")]
    answer = await client.connection.send("GET", f"/api/v1/namespaces/{namespace}/events", query=query)
    assert answer.body.count(b'"reason":"LoadFailed"') == 1
    assert b'"type":"Warning"' in answer.body


async def test_an_event_about_a_namespace_that_is_gone_fails_quietly(client: KubeClient) -> None:
    outcomes: list[str] = []

    class Observer:
        def event(self, outcome: str) -> None:
            outcomes.append(outcome)

    events = EventRecorder(client, instance="penstock-0", observer=Observer())
    owner = model_deployment(namespace="never-was")
    events.record(owner, "LoadFailed", "x")
    await events.flush()
    assert outcomes == ["failed"]
