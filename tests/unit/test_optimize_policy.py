"""What is tried on which network, on which processor: the measured rules."""

from pathlib import Path

import pytest

from penstock_runtime.optimize.isa import GPU, Isa, read_isa
from penstock_runtime.optimize.network import Network, read_network
from penstock_runtime.optimize.policy import plan_candidates
from penstock_runtime.optimize.quantize import prepare_network
from tests.unit.optimize_networks import conv_network, dense_network, save, sums, vision_transformer

VNNI = read_isa(["avx2", "avx512_vnni"], "x86_64")


def network_of(model, folder: Path) -> Network:
    return read_network(prepare_network(save(model, folder / "m.onnx"), folder / "p.onnx"))


@pytest.mark.parametrize(
    ("make", "precision", "calibrated", "tried", "refused"),
    [
        (conv_network, "None", True, [], []),
        (conv_network, "Auto", True, ["graph", "static-int8"], []),
        (conv_network, "Auto", False, ["graph"], ["static-int8"]),
        (conv_network, "INT8", True, ["static-int8"], []),
        (conv_network, "INT8", False, [], ["static-int8"]),
        (conv_network, "FP16", False, ["fp16"], []),
        (dense_network, "Auto", False, ["graph", "dynamic-int8"], []),
        (dense_network, "Auto", True, ["graph", "dynamic-int8"], []),
        (vision_transformer, "Auto", False, ["graph", "dynamic-int8"], []),
        (vision_transformer, "Auto", True, ["graph", "dynamic-int8", "static-int8"], []),
        (sums, "Auto", True, ["graph"], ["int8"]),
        (sums, "INT8", True, [], ["int8"]),
        (sums, "FP16", True, [], ["fp16"]),
        (lambda: conv_network(opset=12), "Auto", True, ["graph"], ["static-int8"]),
    ],
)
def test_what_is_tried(make, precision, calibrated, tried, refused, tmp_path: Path) -> None:
    network = network_of(make(), tmp_path)
    recipes, refusals = plan_candidates(network, precision, VNNI, calibrated=calibrated)
    assert [recipe.name for recipe in recipes] == tried
    assert [refusal.name for refusal in refusals] == refused


def test_a_missing_calibration_names_the_field(tmp_path: Path) -> None:
    (refusal,) = plan_candidates(network_of(conv_network(), tmp_path), "Auto", VNNI, calibrated=False)[1]
    assert refusal.wants_calibration
    assert "spec.optimize.calibration.uri" in refusal.why


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        (["avx2", "fma"], "x86_64", Isa("avx2", signed_activations=False, seven_bits=True)),
        (["avx2", "avx512f"], "x86_64", Isa("avx512f", signed_activations=False, seven_bits=True)),
        (["avx2", "avx512f", "avx512_vnni"], "x86_64", Isa("avx512_vnni", signed_activations=False, seven_bits=False)),
        (["avx2", "avx_vnni"], "x86_64", Isa("avx_vnni", signed_activations=False, seven_bits=False)),
        (["amx_int8", "avx512_vnni"], "x86_64", Isa("amx_int8", signed_activations=False, seven_bits=False)),
        ([], "x86_64", Isa("x86", signed_activations=False, seven_bits=True)),
        (["asimd", "asimddp"], "aarch64", Isa("arm", signed_activations=True, seven_bits=False)),
        (["asimd", "i8mm"], "aarch64", Isa("arm-i8mm", signed_activations=True, seven_bits=False)),
    ],
)
def test_int8_is_made_for_the_processor(flags, machine, expected, tmp_path: Path) -> None:
    assert read_isa(flags, machine) == expected
    network = network_of(conv_network(), tmp_path)
    (recipe,) = plan_candidates(network, "INT8", expected, calibrated=True)[0]
    assert (recipe.signed_activations, recipe.seven_bits) == (expected.signed_activations, expected.seven_bits)


def test_gpus_get_signed_static_int8_alone(tmp_path: Path) -> None:
    recipes, _ = plan_candidates(network_of(dense_network(), tmp_path), "INT8", GPU, calibrated=True)
    assert [(recipe.name, recipe.signed_activations) for recipe in recipes] == [("static-int8", True)]


def test_arithmetic_is_counted_where_it_happens(tmp_path: Path) -> None:
    network = network_of(conv_network(channels=16), tmp_path)
    counted = {layer.operator + layer.name: layer.multiplications for layer in network.layers}
    assert counted == {"Convfirst": 9 * 16 * 64, "Convsecond": 9 * 16 * 16 * 64, "Gemmlast": 2560}
    assert network.dense_share == pytest.approx(2560 / (9216 + 147456 + 2560))
    assert network.small_edges == ()
    assert network_of(conv_network(channels=128), tmp_path).small_edges == ("first",)


def test_nodes_without_names_get_some(tmp_path: Path) -> None:
    network = network_of(conv_network(names=False), tmp_path)
    names = [layer.name for layer in network.layers]
    assert all(names)
    assert len(set(names)) == 3
