"""Which backend the name of a model file stands for; apart from the models, so that reading it imports nothing."""

__all__ = ["FILE_BACKENDS"]

FILE_BACKENDS = {
    "model.onnx": "onnxruntime",
    "model.pt": "pytorch",
    "model.pt2": "pytorch",
    "model.plan": "tensorrt",
    "model.xml": "openvino",
    "model.py": "python",
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
}
"""Backend by the name of a model file in a version directory, as Triton itself infers it."""
