"""Triton model repositories: rendering config.pbtxt from facts and settings, checking any config, sizing.

The path of a revision: `resolve_settings` applies every default once (the result is stored in the revision's record),
`build_repository` renders and checks, `server_flags` gives the flags that follow. For what people bring themselves:
`check_text` and `check_repository`.
"""

from .backends import Backend, backend_for, backend_of
from .check import FileProblem, RepositoryFile, check_config, check_repository, check_text
from .context import Context, ModelFile
from .problems import Problem, Severity, errors
from .proto import ConfigSyntaxError, config_text, parse_config, parse_version
from .render import render_config
from .repository import RepositoryPlan, build_repository, render_repository, server_flags
from .rules import RULES, Rule
from .settings import SERVER_VERSION, ServerSettings, resolve_settings
from .sizing import content_bytes, memory_bytes, shm_bytes

__all__ = [
    "RULES",
    "SERVER_VERSION",
    "Backend",
    "ConfigSyntaxError",
    "Context",
    "FileProblem",
    "ModelFile",
    "Problem",
    "RepositoryFile",
    "RepositoryPlan",
    "Rule",
    "ServerSettings",
    "Severity",
    "backend_for",
    "backend_of",
    "build_repository",
    "check_config",
    "check_repository",
    "check_text",
    "config_text",
    "content_bytes",
    "errors",
    "memory_bytes",
    "parse_config",
    "parse_version",
    "render_config",
    "render_repository",
    "resolve_settings",
    "server_flags",
    "shm_bytes",
]
