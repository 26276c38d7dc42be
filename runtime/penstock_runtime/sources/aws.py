"""The Job's service account as an identity of AWS: a web identity token, or the container credentials agent.

Both are injected by the cloud's own webhook. The node's instance identity is never asked for.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.reach import Reach, reach_of
from penstock_runtime.web import Truncated, Unreachable, Web

from . import Context
from .service import give_up

__all__ = ["AwsIdentity", "ambient_identity"]

_AGENTS = frozenset(("169.254.170.2", "169.254.170.23", "fd00:ec2::23"))
"""Where the credentials agents of ECS and EKS listen; nothing else link-local is ever asked."""
_FIELDS = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
_SECONDS = 3600


@dataclass(frozen=True)
class AwsIdentity:
    """Temporary keys, asked for anew before they expire."""

    web: Web
    environment: Mapping[str, str]
    connected_region: str = ""

    @property
    def region(self) -> str:
        """The region that was written, or injected beside the identity."""
        injected = self.environment.get("AWS_REGION") or self.environment.get("AWS_DEFAULT_REGION")
        return self.connected_region or injected or ""

    def session(self) -> Any:
        """A boto3 session of this identity; raises Failure."""
        import boto3  # noqa: PLC0415 - a third of a second, and the source that asks has it already
        from botocore.credentials import RefreshableCredentials  # noqa: PLC0415
        from botocore.session import get_session  # noqa: PLC0415

        session = get_session()
        session._credentials = RefreshableCredentials.create_from_metadata(  # noqa: SLF001 - the way botocore documents
            metadata=self.keys(), refresh_using=self.keys, method="penstock"
        )
        return boto3.session.Session(botocore_session=session)

    def keys(self) -> dict[str, str]:
        """access_key, secret_key, token and expiry_time; raises Failure."""
        given = self._web_identity() if self.environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") else self._container()
        try:
            expiry = given.get("Expiration") or (datetime.now(UTC) + timedelta(seconds=_SECONDS)).isoformat()
            return {
                "access_key": given["AccessKeyId"],
                "secret_key": given["SecretAccessKey"],
                "token": given.get("SessionToken") or given["Token"],
                "expiry_time": expiry,
            }
        except KeyError as error:
            message = f"the credentials given to the Job's service account lack {error.args[0]}"
            raise Failure(Reason.SOURCE_DENIED, message) from error

    def _web_identity(self) -> dict[str, str]:
        role = self.environment.get("AWS_ROLE_ARN", "")
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": self.environment.get("AWS_ROLE_SESSION_NAME") or "penstock",
            "WebIdentityToken": _token(self.environment["AWS_WEB_IDENTITY_TOKEN_FILE"]),
            "DurationSeconds": str(_SECONDS),
        }
        default = f"https://sts.{self.region}.amazonaws.com" if self.region else "https://sts.amazonaws.com"
        url = self.environment.get("AWS_ENDPOINT_URL_STS") or default
        data = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(data))}
        text = _answer(
            self.web, "POST", f"{url}/", headers, data, f"role {role} for the Job's service account"
        ).decode()
        found = {name: re.search(f"<{name}>([^<]*)</{name}>", text) for name in _FIELDS}
        return {name: html.unescape(match[1].strip()) for name, match in found.items() if match}

    def _container(self) -> dict[str, str]:
        relative = self.environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        url = f"http://169.254.170.2{relative}" if relative else self.environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        parts = urlsplit(url)
        if parts.scheme != "https" and not _is_agent(parts.hostname or ""):
            message = (
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI is {url}, neither https nor an address of a credentials agent"
            )
            raise Failure(Reason.SOURCE_DENIED, message)
        file = self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = _token(file) if file else self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        web = self.web.adapted(admitted=_AGENTS)
        text = _answer(web, "GET", url, {"Authorization": token} if token else {}, None, "the Job's service account")
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise Failure(Reason.SOURCE_DENIED, f"{url} answers with something that is not a JSON object")
        return {str(name): str(value) for name, value in given.items()}


def ambient_identity(context: Context) -> AwsIdentity | None:
    """The identity that was injected for the Job's service account, if one was and no Secret is named."""
    wanted = (
        "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    )  # fmt: skip
    if not any(context.ambient.get(name) for name in wanted):
        return None
    return AwsIdentity(context.web, context.ambient, context.connection.region)


def _answer(web: Web, method: str, url: str, headers: Mapping[str, str], data: bytes | None, whom: str) -> bytes:
    body = (lambda: [data]) if data is not None else None
    try:
        with web.send(method, url, headers, body) as answer:
            text = answer.text(1 << 20)
    except (Unreachable, Truncated) as error:
        give_up(error)
    if answer.status != 200:
        code = re.search(r"<Code>([A-Za-z.]+)</Code>", text.decode(errors="replace"))
        said = f"status {answer.status}{f', {code[1]}' if code else ''}"
        raise Failure(Reason.SOURCE_DENIED, f"AWS refuses {whom} ({said}); check the role's trust policy")
    return text


def _token(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        message = f"the token of the Job's service account cannot be read at {path}: {error.strerror}"
        raise Failure(Reason.SOURCE_DENIED, message) from error


def _is_agent(host: str) -> bool:
    try:
        return host in _AGENTS or reach_of(host) is Reach.LOOPBACK
    except ValueError:
        return host == "localhost"
