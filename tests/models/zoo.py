"""Real small models as their frameworks leave them, each trained when it is first asked for, in seconds.

The network for digits of `networks.py` in torch's forms, classifiers of scikit-learn's tables by its three libraries,
and what other tools make of both. A SavedModel is trained where TensorFlow is (`zoo_packaged.saved_model`).
"""

import functools
import warnings

from .zoo_packaged import MAKERS as PACKAGED
from .zoo_specimen import Specimen, dataset, npz
from .zoo_tabular import MAKERS as TABULAR
from .zoo_torch import MAKERS as TORCH

__all__ = ["NAMES", "Specimen", "dataset", "npz", "specimen"]

_MAKERS = {**TORCH, **PACKAGED, **TABULAR}
NAMES = tuple(_MAKERS)


@functools.cache
def specimen(name: str) -> Specimen:
    """Trained once in a process; what its framework warns of is no concern of the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _MAKERS[name]()
