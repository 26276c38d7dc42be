"""A ready Triton model repository: which models it holds, what they run on, and what the linter says about them."""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from penstock.api.backends import FILE_BACKENDS
from penstock.api.reasons import Reason
from penstock.core.modelrepo import ConfigSyntaxError, Context, RepositoryFile, check_repository, parse_config

from .failure import Failure
from .finding import CONFIG, Asked, Finding, RepositoryModel, SourceTree, is_config, version_of

__all__ = ["inspect_repository"]

_MOST_MODELS = 64
_LARGEST_CONFIG = 1 << 20
_CODE_SUFFIXES = (".py", ".pyc", ".so", ".tar.gz", ".pkl", ".pickle", ".joblib")
_CODE_NAMES = ("triton_python_backend_stub",)
_DANGEROUS_RULES = ("unsafe-name", "unsafe-path", "syntax")
"""Names that a server of this age would hand to a shell, and configs that no server reads."""


def inspect_repository(tree: SourceTree, asked: Asked) -> Finding:
    """The models of the repository; raises Failure for what must not be served."""
    placed = _place(tree)
    models = _split(placed)
    if not models:
        message = f"the source holds {tree.shown()}; a Triton repository has <model>/config.pbtxt and <model>/1/<file>"
        raise Failure(Reason.UNKNOWN_FORMAT, message)
    if len(models) > _MOST_MODELS:
        message = f"the repository holds {len(models)} models; at most {_MOST_MODELS} can be served together"
        raise Failure(Reason.UNSUPPORTED_MODEL, message)
    configs = {name: _read_config(tree, placed, name) for name in models}
    found = {name: _describe(name, models[name], configs[name]) for name in models}
    if asked.trust != "Code":
        for name in models:
            _refuse_code(name, models[name], configs[name], found[name])
    return Finding(
        format="TritonRepository",
        files=placed,
        folders=tuple(f"{name}/1" for name in models if found[name].ensemble and not _versions(models[name])),
        models=tuple(found[name] for name in sorted(found)),
        warnings=_lint(tree, placed),
    )


def _place(tree: SourceTree) -> dict[str, str]:
    """New path of every file: relative to the repository, however many folders stand around it."""
    paths = [path for path in tree.sizes if not any(part.startswith(".") for part in path.split("/"))]
    root = _repository_root(paths)
    if root is None:
        name = _own_name(tree)
        return {f"{name}/{path}": path for path in paths}
    prefix = f"{root}/" if root else ""
    return {path.removeprefix(prefix): path for path in paths if path.startswith(prefix)}


def _repository_root(paths: list[str]) -> str | None:
    """The folder that holds the models; None where the source is one model's own directory."""
    models = [path.removesuffix(CONFIG).rstrip("/") for path in paths if is_config(path)]
    models += ["/".join(path.split("/")[:-2]) for path in paths if version_of(path) is not None]
    if not models:
        return ""
    shallow = min(models, key=lambda path: (path.count("/") + bool(path), path))
    return shallow.rpartition("/")[0] if shallow else None


def _own_name(tree: SourceTree) -> str:
    text = _read_text(tree, CONFIG) if CONFIG in tree.sizes else ""
    name = str(_parse(text, CONFIG).name)
    if not name:
        message = (
            "the source is one model's directory and its config.pbtxt has no name; add name, or upload the folder above"
        )
        raise Failure(Reason.INVALID_CONFIG, message)
    return name


def _split(placed: Mapping[str, str]) -> dict[str, list[str]]:
    models: dict[str, list[str]] = {}
    for path in placed:
        name, slash, rest = path.partition("/")
        if slash:
            models.setdefault(name, []).append(rest)
    return {name: own for name, own in sorted(models.items()) if CONFIG in own or _versions(own)}


def _versions(own: list[str]) -> set[str]:
    return {path.partition("/")[0] for path in own if "/" in path and path.partition("/")[0].isdigit()}


def _read_config(tree: SourceTree, placed: Mapping[str, str], name: str) -> Any:
    source = placed.get(f"{name}/{CONFIG}")
    return _parse(_read_text(tree, source), f"{name}/{CONFIG}") if source else _parse("", name)


def _read_text(tree: SourceTree, path: str) -> str:
    if tree.sizes[path] > _LARGEST_CONFIG:
        raise Failure(
            Reason.INVALID_CONFIG, f"{path} has {tree.sizes[path]} bytes; a config.pbtxt has at most {_LARGEST_CONFIG}"
        )
    try:
        return (tree.root / path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise Failure(Reason.INVALID_CONFIG, f"{path} is not UTF-8 text: byte {error.start}") from error


def _parse(text: str, shown: str) -> Any:
    try:
        return parse_config(text)
    except ConfigSyntaxError as error:
        raise Failure(Reason.INVALID_CONFIG, f"{shown}:{error.line}:{error.column}: {error}") from error


def _describe(name: str, own: list[str], config: Any) -> RepositoryModel:
    ensemble = config.platform == "ensemble" or config.WhichOneof("scheduling_choice") == "ensemble_scheduling"
    backend = str(config.backend) or _platform_backend(str(config.platform)) or _file_backend(own)
    try:
        return RepositoryModel(name=name, backend="" if ensemble else backend, ensemble=ensemble)
    except ValueError as error:
        message = f"the model directory {name[:80]!r} has an unsafe name; use letters, digits, '.', '_' and '-' only"
        raise Failure(Reason.INVALID_CONFIG, message) from error


def _platform_backend(platform: str) -> str:
    return {"pytorch_libtorch": "pytorch", "torch_aoti": "pytorch"}.get(platform, platform.partition("_")[0])


def _file_backend(own: list[str]) -> str:
    parts = (part for path in own for part in path.split("/")[1:2])
    return next((FILE_BACKENDS[part] for part in parts if part in FILE_BACKENDS), "")


def _refuse_code(name: str, own: list[str], config: Any, model: RepositoryModel) -> None:
    found = next(_code(own, config, model), None)
    if found:
        message = (
            f"model {name} runs code when it is loaded ({found}); set spec.model.trust: Code if you trust its author"
        )
        raise Failure(Reason.CODE_NOT_TRUSTED, message)


def _code(own: list[str], config: Any, model: RepositoryModel) -> Iterator[str]:
    if model.backend == "python":
        yield "backend python"
    if config.runtime:
        yield f"runtime {config.runtime}"
    if "EXECUTION_ENV_PATH" in config.parameters:
        yield "parameter EXECUTION_ENV_PATH"
    if config.model_operations.op_library_filename:
        yield f"operator library {config.model_operations.op_library_filename[0]}"
    if config.model_repository_agents.agents:
        yield f"repository agent {config.model_repository_agents.agents[0].name}"
    for path in own:
        if path.lower().endswith(_CODE_SUFFIXES) or path.rpartition("/")[2] in _CODE_NAMES:
            yield f"file {path}"


def _lint(tree: SourceTree, placed: Mapping[str, str]) -> tuple[str, ...]:
    """What the linter finds, as warnings, since the repository is served as it is; raises Failure for the dangerous."""
    with ExitStack() as stack:
        files = {name: _open(tree, source, stack) for name, source in placed.items()}
        problems = check_repository(files, Context())
        del files
    for item in problems:
        if item.problem.rule in _DANGEROUS_RULES:
            raise Failure(Reason.INVALID_CONFIG, f"{item.file}: {item.problem}")
    return tuple(f"{item.file or item.model}: {item.problem}" for item in problems)


def _open(tree: SourceTree, path: str, stack: ExitStack) -> RepositoryFile:
    size = tree.sizes[path]
    if is_config(path):
        return RepositoryFile(size, (tree.root / path).read_bytes())
    if not path.endswith(".onnx") or not size:
        return RepositoryFile(size)
    file = stack.enter_context((tree.root / path).open("rb"))
    return RepositoryFile(size, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
