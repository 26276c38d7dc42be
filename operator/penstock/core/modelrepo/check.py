"""Checking configs: one parsed config, one text, or a whole repository given as paths and contents."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from .context import Context, ModelFile
from .names import unsafe_name
from .onnxfile import OnnxSignature, read_onnx
from .problems import Problem
from .proto import ConfigSyntaxError, ModelConfig, new_config, parse_config
from .rules.table import Subject, check_rules

__all__ = ["FileProblem", "RepositoryFile", "check_config", "check_repository", "check_text"]

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file as its reader hands it over: its size, and its bytes where they are wanted (configs and ONNX files)."""

    size: int
    content: bytes | memoryview | None = None


Files: TypeAlias = Mapping[str, RepositoryFile]
"""By path relative to the repository, with `/`; empty folders end in `/`."""


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A problem, the model it concerns and the file it stands in; `line` and `column` are 0 where unknown."""

    problem: Problem
    model: str
    file: str
    line: int = 0
    column: int = 0


def check_config(config: ModelConfig, context: Context) -> tuple[Problem, ...]:
    """Everything wrong with a config, in the order of the rules."""
    return tuple(check_rules(Subject.of(config, context)))


def check_text(text: str, context: Context) -> tuple[Problem, ...]:
    """The same for the text of a config.pbtxt; text that is none is one problem at `line:column`."""
    try:
        return check_config(parse_config(text), context)
    except ConfigSyntaxError as error:
        return (_syntax_problem(error),)


def check_repository(files: Files, context: Context) -> tuple[FileProblem, ...]:
    """Everything wrong with a repository, model by model in name order.

    A model is a directory that holds a config.pbtxt or a version directory. `context` tells what is known of the
    server; directory, files and models are filled in here.
    """
    models = _split(files)
    if not models:
        problem = Problem("", "repository-empty", "no model found; expected <model>/config.pbtxt or <model>/1/<file>")
        return (FileProblem(problem, "", ""),)
    configs: dict[str, ModelConfig] = {}
    found: list[FileProblem] = []
    for model, own in models.items():
        config, problems = _read_config(model, own)
        found.extend(problems)
        if config is not None:
            configs[model] = config
    known = {**dict.fromkeys(models, new_config()), **configs}
    for model, config in configs.items():
        inner = replace(context, directory=model, files=_look_into(models[model]), models=known)
        file = f"{model}/{CONFIG}"
        found.extend(FileProblem(problem, model, file) for problem in check_config(config, inner))
    return tuple(sorted(found, key=lambda item: item.model))


def _split(files: Files) -> dict[str, dict[str, RepositoryFile]]:
    models: dict[str, dict[str, RepositoryFile]] = {}
    for path, file in sorted(files.items()):
        model, slash, rest = path.partition("/")
        if slash and not model.startswith("."):
            models.setdefault(model, {})[rest] = file
    return {model: own for model, own in models.items() if any(_is_part(path) for path in own)}


def _is_part(path: str) -> bool:
    return path == CONFIG or path.partition("/")[0].isdigit()


def _read_config(model: str, own: Mapping[str, RepositoryFile]) -> tuple[ModelConfig | None, list[FileProblem]]:
    file, path = own.get(CONFIG), f"{model}/{CONFIG}"
    if file is None:
        message = "there is no config.pbtxt, and the server does not complete configs; write one"
        wrong = unsafe_name(model)
        problems = [Problem("", "config-missing", message)]
        if wrong:
            problems.append(Problem("name", "unsafe-name", f"the directory's name {wrong}"))
        return None, [FileProblem(problem, model, path) for problem in problems]
    try:
        return parse_config(bytes(file.content or b"").decode()), []
    except UnicodeDecodeError as error:
        problem = Problem("", "syntax", f"not UTF-8 text: byte {error.start}")
        return None, [FileProblem(problem, model, path)]
    except ConfigSyntaxError as error:
        return None, [FileProblem(_syntax_problem(error), model, path, error.line, error.column)]


def _syntax_problem(error: ConfigSyntaxError) -> Problem:
    place = f"{error.line}:{error.column}" if error.line else ""
    return Problem(place, "syntax", f"not a ModelConfig: {error}")


def _look_into(own: Mapping[str, RepositoryFile]) -> dict[str, ModelFile]:
    return {path: ModelFile(file.size, _read_onnx(path, file)) for path, file in own.items() if path != CONFIG}


def _read_onnx(path: str, file: RepositoryFile) -> OnnxSignature | str | None:
    if file.content is None or not path.endswith(".onnx"):
        return None
    return read_onnx(file.content)
