"""Access tokens of the clouds' storage services: asked for when they are needed, and again before they expire."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.web import Answer, Truncated, Unreachable, Web

from .service import give_up

__all__ = ["Bearer", "Token", "post_form", "read_token"]

_SPARE_SECONDS = 300


@dataclass(frozen=True)
class Token:
    """A token, and for how many seconds it is good."""

    value: str
    seconds: float


class Bearer:
    """The Authorization header of a token that `ask` gives; raises whatever `ask` raises."""

    def __init__(self, ask: Callable[[], Token], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._value, self._until = "", 0.0

    def __call__(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The header, whatever is asked for."""
        del method, url, headers
        if not self._value or self._clock() >= self._until:
            token = self._ask()
            self._value, self._until = token.value, self._clock() + max(0.0, token.seconds - _SPARE_SECONDS)
        return {"Authorization": f"Bearer {self._value}"}


def post_form(web: Web, url: str, form: Mapping[str, str], whom: str) -> Token:
    """The token that an OAuth endpoint gives for a form; raises Failure."""
    data = urlencode(form).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(data))}
    try:
        answer = web.send("POST", url, headers, lambda: [data])
        return read_token(answer, whom)
    except (Unreachable, Truncated) as error:
        give_up(error)


def read_token(answer: Answer, whom: str) -> Token:
    """The token in an answer; raises Failure, Truncated or Unreachable."""
    with answer:
        host = urlsplit(answer.url).netloc
        try:
            told = json.loads(answer.text(1 << 20))
        except ValueError:
            told = None
    if answer.status == 200 and isinstance(told, dict) and isinstance(told.get("access_token"), str):
        return Token(told["access_token"], float(told.get("expires_in") or 3600))
    said = told.get("error_description") or told.get("error") if isinstance(told, dict) else ""
    message = f"{host} gives no token for {whom} (status {answer.status}{f', {str(said)[:200]}' if said else ''})"
    raise Failure(Reason.SOURCE_DENIED, message)
