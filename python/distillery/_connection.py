"""The server's address, the token, and requests that are sent again where that is safe."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from urllib.parse import quote

import httpx

from ._steps import Call, Operation, Sleep
from .errors import AccessDenied, DistilleryError, Refused, Unreachable

DEFAULT_URL = "http://127.0.0.1:8080"
# Most times that a request is sent.
_TRIES = 4
# Longest pause before a request is sent again, in seconds, whatever the server asks for.
_LONGEST_PAUSE = 30.0
# Most bytes of a file with a token.
_LONGEST_TOKEN = 4096
# Longest text of a refusal that is no problem document.
_LONGEST_EXCERPT = 200


def settings(url: str | None, token: str | None, timeout: float) -> dict:
    """The arguments of an httpx client for a server."""
    base = httpx.URL(url or os.environ.get("DISTILLERY_URL") or DEFAULT_URL)
    if base.scheme not in ("http", "https") or not base.host:
        raise DistilleryError(f"{base} is not the address of a server: expected one such as {DEFAULT_URL}")
    token = token if token is not None else _find_token()
    headers = {"user-agent": "distillery-python"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    # Writing a body has no limit while bytes move; the server may take long to store it.
    return {
        "base_url": base,
        "headers": headers,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        # A proxy's loopback address is another machine.
        "trust_env": not _is_loopback(base.host),
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _find_token() -> str | None:
    """The token, found as by the commands: a named file, the environment, or the user's configuration."""
    named = os.environ.get("DISTILLERY_TOKEN_FILE")
    if named:
        token = _read_token(Path(named))
        if token is None:
            raise DistilleryError(f"there is no file {named}: write the token into it, or name another")
        return token
    given = os.environ.get("DISTILLERY_TOKEN")
    if given:
        return _check_token(given.strip(), "DISTILLERY_TOKEN")
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return _read_token(Path(configuration, "distillery", "token"))


def _read_token(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise DistilleryError(f"others can read or change {path}: run chmod 600 {path}")
            text = file.read(_LONGEST_TOKEN + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DistilleryError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > _LONGEST_TOKEN:
        raise DistilleryError(f"{path} has more than {_LONGEST_TOKEN} bytes: this is not a token")
    return _check_token(text.decode("ascii", "replace").strip(), str(path))


def _check_token(token: str, source: str) -> str:
    if not token or not all("!" <= character <= "~" for character in token):
        raise DistilleryError(f"{source} has no token: expected the one line that `distillery token create` printed")
    return token


def path_of(segments) -> str:
    """A path below the server's address."""
    return "/".join(quote(segment, safe="") for segment in segments)


def send(call: Call) -> Operation[httpx.Response]:
    """Sends a request that may be repeated, until it is answered; the answer is a success.

    Raises:
        Refused: the server refuses the request.
        Unreachable: nobody listens there, or no answer came.
    """
    pause = 0.5
    for left in reversed(range(_TRIES)):
        wait = pause
        try:
            response = yield call
        except httpx.TransportError as error:
            if not left or isinstance(error, httpx.ConnectError):
                raise Unreachable(_what_broke(call, error)) from error
        else:
            if response.is_success:
                return response
            if response.status_code not in (429, 503) or not left:
                raise refusal(response)
            wait = retry_after(response, pause)
        yield Sleep(wait)
        pause *= 2
    raise AssertionError("the last try returns or raises")


def _what_broke(call: Call, error: httpx.TransportError) -> str:
    what = str(error) or type(error).__name__
    return f"{call.method} /{path_of(call.path)}: {what}. Is the server running, and is its address right?"


def retry_after(response: httpx.Response, otherwise: float) -> float:
    """The pause that the server asks for, in seconds."""
    text = response.headers.get("retry-after", "")
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdigit() else otherwise


def refusal(response: httpx.Response) -> DistilleryError:
    """The error for an answer other than a success."""
    status = response.status_code
    if 300 <= status < 400:
        place = response.headers.get("location", "elsewhere")
        return Refused(status, f"the server redirects to {place}: use the address at which it answers itself")
    errors = []
    try:
        problem = response.json()
        detail, errors = str(problem["detail"]), problem.get("errors") or []
    except (ValueError, KeyError, TypeError):
        detail = f"the server answered {status}: {response.text[:_LONGEST_EXCERPT]}"
    if status == 503:
        return Unreachable(detail)
    return (AccessDenied if status in (401, 403) else Refused)(status, detail, errors)
