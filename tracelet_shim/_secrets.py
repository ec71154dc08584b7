"""Takes secrets out of what is recorded about a program: its arguments, its remote repository, its uncommitted changes.

An argument is judged by its name and by its look. A name that is not English, or a secret that looks like any other word,
cannot be told; environment variables are therefore not recorded at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MASK", "mask_arguments", "mask_text"]

MASK = "***"

_ANYWHERE = re.compile(
    "passw(or)?d|passphrase|secret|credential|(api|access|private|auth|account|signing|ssh)key|(access|auth)token"
)
_WORDS = frozenset({"auth", "oauth", "authorization", "bearer", "cookie", "jwt", "private", "pwd"})
_ABOUT = frozenset({"count", "dim", "dir", "env", "file", "id", "length", "limit", "name", "path", "size", "type"})
"""Last words of names that speak about a secret rather than have it: ``--password-file``."""
_VOCABULARY = frozenset(
    {"audio", "bos", "cls", "decoder", "end", "eos", "image", "mask", "max", "min", "new", "num", "pad", "per", "sep"}
    | {"special", "start", "stop", "unk", "video"}
)
"""What stands before "token" where that is a word of a language model: ``--pad-token``."""

_NAME = r"[A-Za-z_][\w.\-]*"
_SHORT = r"(?<![\w.\-])[A-Za-z_][\w.\-]{0,63}"  # a diff may have lines of a megabyte: nothing is to be looked at twice
_GIVEN = re.compile(rf"""(?P<name>{_SHORT})["']?\s*[=:]\s*""")
_VALUE = re.compile(r"""(?P<quote>["'])[^"']*(?P=quote)|[^\s"',;&}\]]+""")
_LITERAL = re.compile(rf"""(?P<name>{_SHORT})(?P<between>["']?\]?\s*[=:]\s*[rbuf]?)(?P<value>"[^"\n]+"|'[^'\n]+')""")
_VARIABLE = re.compile(r"(?m)^(?P<lead>[+\- ]?[ \t]*(?:export )?)(?P<name>[A-Z][A-Z0-9_]*)(?P<between>=)(?P<value>[^\s\"']+)$")
_URL_USER = re.compile(r"(?P<scheme>\b(?!ssh:)[A-Za-z][\w+.-]{0,20}://)[^/\s?#'\"]*@|(?P<ssh>\bssh://[^/\s:@]*):[^/\s@]*@")
_SIGNATURE = re.compile(r"(?<=[?&]sig=)[^&\s\"']+")  # of a link to a cloud's storage
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{12,}|xox[abeprs]-[\w-]{8,}|AIza[\w-]{30,}|pypi-[\w-]{16,}|npm_[A-Za-z0-9]{16,}"
    r"|eyJ[\w-]{16,}(?:\.[\w-]+)*"
    r")"
)
"""How the tokens of Hugging Face, OpenAI and Anthropic, GitHub, GitLab, AWS, Slack, Google, PyPI and npm begin, and a JWT."""


def mask_arguments(arguments: Iterable[str]) -> tuple[str, ...]:
    """Return a command line with ``***`` for what looks like a secret: ``--api-key ***``, ``--token=***``."""
    masked: list[str] = []
    named = False  # by the argument before this one
    for argument in arguments:
        option = re.fullmatch(rf"--?{_NAME}", argument)
        masked.append(MASK if named and option is None else _mask_argument(argument))
        named = option is not None and _is_secret(argument)
    return tuple(masked)


def _mask_argument(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if equals and value and re.fullmatch(rf"[-+~]*{_NAME}", name) and _is_secret(name):
        return f"{name}={MASK}"
    text, at, parts = mask_text(argument), 0, []
    for given in _GIVEN.finditer(text):
        secret = _VALUE.match(text, given.end())
        if secret is not None and given.start() >= at and _is_secret(given["name"]):
            quote = secret["quote"] or ""
            parts.append(f"{text[at : given.end()]}{quote}{MASK}{quote}")
            at = secret.end()
    return "".join([*parts, text[at:]])


def mask_text(text: str) -> str:
    """Return a text without tokens of a known format, private keys, passwords in URLs, and literals that are given to a
    name which is one of a secret."""
    text = _PEM.sub(rf"\1 {MASK} \2", text)
    text = _URL_USER.sub(lambda m: f"{m['scheme']}{MASK}@" if m["scheme"] else f"{m['ssh']}:{MASK}@", text)
    text = _TOKENS.sub(MASK, _SIGNATURE.sub(MASK, text))
    text = _HEADER.sub(rf"\1 {MASK}", text)
    return _VARIABLE.sub(_mask_value, _LITERAL.sub(_mask_value, text))


def _mask_value(match: re.Match[str]) -> str:
    if not _is_secret(match["name"]):
        return match[0]
    lead = match.groupdict().get("lead") or ""
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{lead}{match['name']}{match['between']}{quote}{MASK}{quote}"


def _is_secret(name: str) -> bool:
    """True if a variable or option of this name has a secret."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.strip("-+~"))
    lower = [word.lower() for word in words]
    if not lower or lower[-1] in _ABOUT:
        return False
    if _ANYWHERE.search("".join(lower)) or _WORDS.intersection(lower):
        return True
    before = lower[-2] if len(lower) > 1 else ""
    return (lower[-1] == "token" and before not in _VOCABULARY) or (lower[-1] == "key" and before in ("deploy", "license"))
