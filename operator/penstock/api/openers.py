"""Which image opens which format; plain data, since the opener's child does not wait for pydantic."""

from collections.abc import Mapping
from typing import Literal

__all__ = ["OPENERS", "Opener"]

Opener = Literal["Basic", "Convert", "TensorFlow"]
"""Images that open models: with onnxruntime alone; with torch and the tabular libraries; with TensorFlow."""
OPENERS: Mapping[str, Opener] = {
    "Auto": "Basic",
    "ONNX": "Basic",
    "TritonRepository": "Basic",
    "OpenVINO": "Basic",
    "TensorRT": "Basic",
    "Treelite": "Basic",
    "TorchExport": "Convert",
    "TorchScript": "Convert",
    "SafeTensors": "Convert",
    "StateDict": "Convert",
    "Keras": "Convert",
    "SKLearn": "Convert",
    "XGBoost": "Convert",
    "LightGBM": "Convert",
    "MLflow": "Convert",
    "TorchServe": "Convert",
    "SavedModel": "TensorFlow",
}
"""Which image is tried first; content that turns out to need another one, as an MLflow model whose flavour is a
SavedModel does, is answered with `needs`."""
