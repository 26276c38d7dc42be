"""Classifiers of scikit-learn's own tables, by scikit-learn, XGBoost and LightGBM."""

import pickle
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import skops.io
import treelite
import xgboost
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .zoo_specimen import Array, Specimen

__all__ = ["MAKERS", "Table", "table"]

_SEED = 20


class Table:
    """The 178 wines: 13 float32 columns, three classes; 60 of them held out."""

    def __init__(self) -> None:
        rows, labels = load_wine(return_X_y=True)
        parts = train_test_split(
            rows.astype(np.float32), labels.astype(np.int64), test_size=60, random_state=_SEED, stratify=labels
        )
        self.rows, self.held_out, self.labels, self.held_out_labels = parts


@cache
def table() -> Table:
    """One split for all."""
    return Table()


def _pipeline() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(table().rows, table().labels)


def _forest() -> Any:
    return RandomForestClassifier(20, max_depth=6, random_state=_SEED).fit(table().rows, table().labels)


def _boosted() -> Any:
    return xgboost.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1).fit(table().rows, table().labels)


def _light() -> Any:
    model = lightgbm.LGBMClassifier(n_estimators=20, max_depth=3, n_jobs=1, verbose=-1, deterministic=True)
    return model.fit(table().rows, table().labels).booster_


def _specimen(format_: str, name: str, data: bytes, answers: tuple[Array, ...], **more: Any) -> Specimen:
    rows = {"rows": table().held_out, "labels": table().held_out_labels}
    return Specimen(format_, {name: data}, answers=answers, **{"input": "X", **rows, **more})


def _classified(model: Any) -> tuple[Array, ...]:
    """Labels and probabilities."""
    return model.predict(table().held_out), model.predict_proba(table().held_out).astype(np.float32)


def _skops() -> Specimen:
    model = _pipeline()
    return _specimen("SKLearn", "model.skops", skops.io.dumps(model), _classified(model))


def _pickled() -> Specimen:
    model = _forest()
    return _specimen("SKLearn", "model.pkl", pickle.dumps(model), _classified(model), model={"trust": "Code"})


def _xgboost() -> Specimen:
    model = _boosted()
    answers = (model.predict_proba(table().held_out),)
    return _specimen("XGBoost", "model.ubj", bytes(model.get_booster().save_raw("ubj")), answers)


def _lightgbm() -> Specimen:
    model = _light()
    answers = (model.predict(table().held_out).astype(np.float32),)
    return _specimen("LightGBM", "model.txt", model.model_to_string().encode(), answers)


def _as_is(made: Specimen) -> Specimen:
    """The same, served as it is by the forest backend."""
    more = {"input": "input__0", "model": {"convert": "Never"}, "served": made.format}
    return Specimen(**{**made.__dict__, **more})


def _treelite() -> Specimen:
    model = _forest()
    answers = (model.predict_proba(table().held_out).astype(np.float32),)
    data = treelite.sklearn.import_model(model).serialize_bytes()
    return _specimen("Treelite", "model.tl", data, answers, input="input__0", served="Treelite")


MAKERS: Mapping[str, Callable[[], Specimen]] = {
    "sklearn-skops": _skops,
    "sklearn-pickle": _pickled,
    "xgboost": _xgboost,
    "xgboost-forest": lambda: _as_is(_xgboost()),
    "lightgbm": _lightgbm,
    "lightgbm-forest": lambda: _as_is(_lightgbm()),
    "treelite": _treelite,
}
