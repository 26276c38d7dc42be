"""What all stand-ins for Triton's C++ backends share: tensors of the configuration, batches, answers.

The server's Python-based backends cannot complete configurations: they are not told where the model lies. All that the
C++ backends refuse at load is refused here, in their words where they have some.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

Config = dict[str, Any]
Arrays = list[Any]


class Tensor:
    """One input or output of the configuration; `reshape` is the shape the model sees, None where it is `dims`."""

    def __init__(self, item: Config) -> None:
        self.name = item["name"]
        self.data_type = item["data_type"]
        self.dims = [int(size) for size in item["dims"]]
        self.reshape = [int(size) for size in item["reshape"].get("shape", [])] if "reshape" in item else None
        self.numpy_type = pb_utils.triton_string_to_numpy(self.data_type)

    @property
    def model_dims(self) -> list[int]:
        """The shape the model sees, without the batch."""
        return self.dims if self.reshape is None else self.reshape


class Backend:
    """One instance of a model. A backend says how it is loaded and run; `runtime` begins its complaints."""

    runtime = ""
    filename = ""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model, and compare the configuration with it; raises TritonModelException."""
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.batched = config["max_batch_size"] > 0
        self.inputs = [Tensor(item) for item in config["input"]]
        self.outputs = [Tensor(item) for item in config["output"]]
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            self.load(str(folder / (config.get("default_model_filename") or self.default_file())), config)
        except pb_utils.TritonModelException:
            raise
        except Exception as error:
            raise pb_utils.TritonModelException(f"{self.runtime} error: {error}") from error

    def default_file(self) -> str:
        """The model's file where the configuration names none."""
        return self.filename

    def load(self, path: str, config: Config) -> None:
        """Load the model; whatever it raises fails the load."""
        raise NotImplementedError

    def run(self, feed: dict[str, Any]) -> Arrays:
        """The outputs in the order of the configuration; whatever it raises fails the request."""
        raise NotImplementedError

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, together where that is possible; a bad one fails alone."""
        if self.batched and len(requests) > 1:
            try:
                return self.answer_together([self.feed(request) for request in requests])
            except Exception:  # noqa: BLE001 - one of them is at fault: alone, each gets its own answer
                return [self.answer(request) for request in requests]
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Answer one request, if only with what the runtime says against it."""
        try:
            return self.respond(self.run(self.feed(request)))
        except Exception as error:  # noqa: BLE001 - the runtimes' exceptions have no common base
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.runtime} error: {error}"))

    def answer_together(self, feeds: list[dict[str, Any]]) -> list[Any]:
        """Run all requests as one batch; raises when one of them is at fault."""
        first = self.inputs[0].name
        edges = np.cumsum([len(feed[first]) for feed in feeds])[:-1]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        arrays = self.run(joined)
        return [self.respond(parts) for parts in zip(*(np.split(array, edges) for array in arrays), strict=True)]

    def feed(self, request: Any) -> dict[str, Any]:
        """The arrays of a request, as the model wants them."""
        feed = {}
        for tensor in self.inputs:
            array = pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            if tensor.reshape is not None:
                array = array.reshape(self.whole(array, tensor.reshape))
            feed[tensor.name] = as_text(array) if tensor.data_type == "TYPE_STRING" else array
        return feed

    def respond(self, arrays: Any) -> Any:
        """The model's arrays, as the configuration promises them."""
        tensors = []
        for tensor, result in zip(self.outputs, arrays, strict=True):
            array = np.asarray(result)
            shape = array.shape if tensor.reshape is None else self.whole(array, tensor.dims)
            array = array.reshape(shape).astype(tensor.numpy_type, copy=False)
            tensors.append(pb_utils.Tensor(tensor.name, array))
        return pb_utils.InferenceResponse(tensors)

    def whole(self, array: Any, dims: list[int]) -> list[int]:
        """A shape with the batch, where there is one."""
        return [len(array), *dims] if self.batched else dims

    def check_names(self, role: str, configured: list[Tensor], known: list[str], *, complete: bool) -> None:
        """Compare names with the model's; `complete` where every tensor of the model must be configured."""
        unknown = [tensor.name for tensor in configured if tensor.name not in known]
        missing = sorted(set(known) - {tensor.name for tensor in configured}) if complete else []
        if unknown or missing:
            raise pb_utils.TritonModelException(
                f"unexpected inference {role} {unknown}, missing {role} {missing}; the model has {sorted(known)}"
            )

    def check_tensor(self, role: str, tensor: Tensor, data_type: str, known: list[int]) -> None:
        """Compare type and shape; a size that the model fixes must be said, as in the C++ backends."""
        if tensor.data_type != data_type:
            raise pb_utils.TritonModelException(
                f"unexpected datatype {tensor.data_type} for inference {role} '{tensor.name}', expecting {data_type}"
            )
        asked = [-1, *tensor.model_dims] if self.batched else tensor.model_dims
        fits = len(asked) == len(known) and all(mine in (-1, size) for size, mine in zip(asked, known, strict=True))
        if not fits:
            batch = "; with max_batch_size > 0 the first dimension is the batch" if self.batched else ""
            raise pb_utils.TritonModelException(
                f"unexpected shape {asked} for inference {role} '{tensor.name}', the model has {known}{batch}"
            )

    def says_yes(self, parameter: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002 - reads as a sentence
        """A parameter that is true or yes in any case."""
        value = self.parameters.get(parameter)
        return default if value is None else value.lower() in ("true", "yes", "1")


def as_text(array: Any) -> Any:
    """Triton's bytes as str; bytes that are no UTF-8 fail the request."""
    flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)
