"""Which image opens which format."""

from collections.abc import Mapping

__all__ = ["OPENER"]

OPENER: Mapping[str, str] = {
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
"""Image by format. An MLflow model whose flavour is a SavedModel needs TensorFlow: `detect.opener_of` looks into it."""
