"""Datasets: what is read, what is refused before a byte of it, and what the sentences say."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.api.reasons import Reason
from penstock_runtime.data import read_dataset
from penstock_runtime.failure import Failure
from penstock_runtime.finding import Tensor

IMAGE = Tensor("image", "FP32", (-1, 1, 4))


def save(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "data.npz", **arrays)
    return folder


def images(rows: int = 6) -> Any:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 1, 4)


def test_an_archive_of_rows_and_labels(tmp_path: Path) -> None:
    dataset = read_dataset(save(tmp_path, image=images(), label=np.arange(6), other=np.ones(3)), (IMAGE,))
    assert dataset.rows == 6
    assert dataset.label is not None
    np.testing.assert_array_equal(dataset.arrays["image"], images())
    assert set(dataset.arrays) == {"image"}
    assert not dataset.whole
    assert dataset.fixed is None


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", images().astype(">f8"))
    np.save(tmp_path / "label.npy", np.arange(6))
    dataset = read_dataset(tmp_path, (IMAGE,))
    assert dataset.arrays["image"].dtype == np.float32
    np.testing.assert_array_equal(dataset.arrays["image"], images())


def test_columns_first_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.asfortranarray(images()))
    np.testing.assert_array_equal(read_dataset(tmp_path, (IMAGE,)).arrays["image"], images())


def test_few_rows_are_spread_over_all(tmp_path: Path) -> None:
    dataset = read_dataset(save(tmp_path, image=images(100), label=np.arange(100)), (IMAGE,), 4)
    assert dataset.label is not None
    assert dataset.label.tolist() == [0, 25, 50, 75]


def test_without_proven_batching_rows_go_alone(tmp_path: Path) -> None:
    assert read_dataset(save(tmp_path, image=images()), (IMAGE,), batching=False).fixed == 1


@pytest.mark.parametrize(
    ("dims", "shape", "whole", "fixed"),
    [
        ((-1, 4), (6, 4), False, None),
        ((1, 4), (6, 4), False, 1),
        ((1, 4), (6, 1, 4), True, None),
        ((3, 4), (6, 4), False, 3),
        ((4,), (6, 4), True, None),
        ((), (6,), True, None),
        ((-1, -1), (6, 9), False, None),
    ],
)
def test_what_a_row_is(
    tmp_path: Path, dims: tuple[int, ...], shape: tuple[int, ...], whole: bool, fixed: int | None
) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    dataset = read_dataset(tmp_path, (Tensor("x", "FP32", dims),))
    assert (bool(dataset.whole), dataset.fixed, dataset.rows) == (whole, fixed, 6)


REFUSED = {
    "name": ({"images": images()}, "no array named image, as the model's inputs are; it has images"),
    "shape": (
        {"image": np.zeros((6, 2, 4), np.float32)},
        "'image' of the dataset has the shape [6, 2, 4]; the input is [-1, 1, 4], so [rows, 1, 4] is expected",
    ),
    "reshape": ({"image": np.zeros((6, 4), np.float32)}, "so [rows, 1, 4] is expected; reshape it"),
    "pixels": ({"image": images().astype(np.uint8)}, "is uint8, the input wants FP32; convert it as it was for"),
    "objects": ({"image": np.array([{}, {}])}, "holds Python objects"),
    "structures": ({"image": np.zeros(3, [("a", "f4")])}, "expected plain numbers or text"),
    "rows": ({"image": images(), "label": np.arange(5)}, "differ in their number of rows: image 6, label 5"),
    "none": ({"image": images(0)}, "has no rows"),
    "large": ({"image": images().astype(np.float64) * 1e300}, "too large for FP32"),
}


@pytest.mark.parametrize(("arrays", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_array_and_what_was_expected(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(Failure) as refused:
        read_dataset(tmp_path, (IMAGE,))
    assert refused.value.reason is Reason.DATA_INVALID
    assert words in refused.value.message


def test_integers_beyond_the_input(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([[1, 300]]))
    with pytest.raises(Failure, match="holds 1 to 300, too large for UINT8"):
        read_dataset(tmp_path, (Tensor("ids", "UINT8", (-1, 2)),))
    assert read_dataset(tmp_path, (Tensor("ids", "INT32", (-1, 2)),)).arrays["ids"].dtype == np.int32


def test_text(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([["straße"], ["x"]]))
    np.save(tmp_path / "b.npy", np.array([["straße".encode()], [b"x"]]))
    dataset = read_dataset(tmp_path, (Tensor("s", "STRING", (-1, 1)), Tensor("b", "STRING", (-1, 1))))
    assert dataset.arrays["s"].tolist() == dataset.arrays["b"].tolist() == [["straße"], ["x"]]


def test_an_input_called_label_is_no_label(tmp_path: Path) -> None:
    dataset = read_dataset(save(tmp_path, label=images()), (Tensor("label", "FP32", (-1, 1, 4)),))
    assert dataset.label is None


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(folder: Path, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image.npy", content)
    return folder


def test_a_zip_bomb_is_refused_by_its_headers(tmp_path: Path) -> None:
    folder = archive(tmp_path, npy((1 << 20, 1, 4), bytes(1 << 24)))
    assert (folder / "data.npz").stat().st_size < 1 << 15
    with pytest.raises(Failure, match="are 16 MiB, at most 1 MiB are read"):
        read_dataset(folder, (IMAGE,), most_bytes=1 << 20)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((1 << 40, 1, 4), b"1234"), "declares"),
        (npy((6, 1, 4), b"1234"), "ends after 4 of 96 bytes"),
        (b"\x93NUMPY\x09\x00rubbish", "no header that can be read"),
        (b"cos\nsystem\n", "no header that can be read"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(Failure, match=words):
        read_dataset(archive(tmp_path, content), (IMAGE,))


def test_a_damaged_archive_gives_its_rows_or_a_sentence(tmp_path: Path) -> None:
    good = (save(tmp_path, image=images(1000)) / "data.npz").read_bytes()
    refused = 0
    for position in range(0, len(good), 41):
        data = bytearray(good)
        data[position] ^= 255
        (tmp_path / "data.npz").write_bytes(data)
        try:
            np.testing.assert_array_equal(read_dataset(tmp_path, (IMAGE,)).arrays["image"], images(1000))
        except Failure as failure:
            refused += failure.reason is Reason.DATA_INVALID
    assert refused > 10


@pytest.mark.parametrize("names", [(), ("rows.csv",), ("a.npz", "b.npz"), ("a.npz", "b.npy")])
def test_files_that_are_no_dataset(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if name.endswith("z"):
            np.savez(tmp_path / name, image=images())
        elif name.endswith("y"):
            np.save(tmp_path / name, images())
        else:
            (tmp_path / name).write_text("1,2\n")
    with pytest.raises(Failure, match=r"expected one \.npz file, or \.npy files alone"):
        read_dataset(tmp_path, (IMAGE,))


@settings(deadline=None, max_examples=15)
@given(
    hnp.arrays(
        st.sampled_from(["<f4", ">f8", "<f2"]),
        st.tuples(st.integers(1, 7), st.integers(1, 3)),
        elements=st.floats(-9, 9, width=16),
    )
)
def test_what_was_saved_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, array: Any) -> None:
    folder = save(tmp_path_factory.mktemp("d"), x=array)
    dataset = read_dataset(folder, (Tensor("x", "FP32", (-1, array.shape[1])),))
    np.testing.assert_array_equal(dataset.arrays["x"], array.astype(np.float32))
