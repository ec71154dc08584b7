"""Takes secrets out of what is recorded about a program: its arguments, its remote repository, its uncommitted changes.

An argument is judged by its name and by its look. A name that is not English, or a secret that looks like any other word,
cannot be told; environment variables are therefore not recorded at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MASK", "is_secret", "mask_arguments", "mask_text"]

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
_KEYS = frozenset(
    {"action", "attention", "attn", "audio", "batch", "cache", "caption", "child", "column", "composite", "config", "data"}
    | {"dataset", "default", "dict", "dropout", "event", "feature", "field", "file", "first", "foreign", "group", "hash"}
    | {"head", "hot", "idempotency", "image", "index", "init", "input", "join", "json", "label", "last", "layer", "lookup"}
    | {"loss", "map", "mask", "max", "metadata", "metric", "min", "model", "monitor", "next", "no", "noise", "num", "object"}
    | {"observation", "order", "output", "param", "parent", "partition", "per", "primary", "prng", "prompt", "public"}
    | {"query", "random", "registry", "response", "reward", "rng", "root", "routing", "row", "sample", "score", "seed"}
    | {"shortcut", "sort", "split", "state", "step", "tag", "target", "text", "time", "train", "unique", "val", "value"}
    | {"video"}
)
"""What stands before "key" where that finds or orders something: ``--sort-key``."""
_PASSES = frozenset({"backward", "band", "first", "forward", "high", "low", "multi", "num", "per", "second", "single", "two"})
"""What stands before "pass" where something passes: ``--low-pass``."""
_LINKS = frozenset({"key", "sig", "signature"})
"""Last words of what has a secret in the query of a URL, though hardly elsewhere."""
_NO_VALUES = frozenset(
    {"any", "bool", "bytes", "false", "float", "int", "none", "null", "object", "optional", "required", "secretstr", "str"}
    | {"string", "tensor", "true", "~"}
)
"""What stands after a name in code and settings, and is a type, or says that there is nothing."""

_NAME = r"[A-Za-z_][\w.\-]*"
_BARE = r"[A-Za-z_][\w.\-]{0,63}"
_SHORT = rf"(?<![\w.\-]){_BARE}"  # a diff may have lines of a megabyte: nothing is to be looked at twice
_GIVEN = re.compile(rf"""(?P<name>{_SHORT})["']?\s*[=:]\s*""")
_VALUE = re.compile(r"""(?P<quote>["'])[^"']*(?P=quote)|[^\s"',;&}\]]+""")
_QUOTED = r"""(?:"[^"\n]+"|'[^'\n]+')"""
_LITERAL = re.compile(  # password = "x", "password": "x", os.environ["PASSWORD"] = "x", password: str | None = "x"
    rf"""(?P<name>{_SHORT}|(?:(?<=\A-)|(?<=\n-)){_BARE})"""
    rf"""(?P<between>["']?\]?\s*(?::[ \t]?[\w.\[\] |]{{1,40}})?[=:]\s*[rbuf]?)(?P<value>{_QUOTED})"""
)
_SECOND = re.compile(  # setdefault("API_KEY", "x"), add_argument("--api-key", default="x"), ["--api-key", "x"]
    rf"""(?P<lead>\(\s*["']-{{0,2}}|["']--?)(?P<name>{_BARE})"""
    rf"""(?P<between>["']\s*,[\s+]{{0,80}}(?:(?![\s+])[^()]{{0,200}}?\bdefault\s*=\s*)?[rbuf]?)(?P<value>{_QUOTED})"""
)
_LOGIN = re.compile(rf"""(?P<between>login\([^()]{{0,200}}?\bkey\s*=\s*[rbuf]?)(?P<value>{_QUOTED})""")
_VARIABLE = re.compile(  # API_KEY=x, as shells, .env files and Dockerfiles have it; not where it is another variable's value
    r"(?P<lead>(?<!\S)[+\-]?)(?P<name>[A-Z][A-Z0-9_]{0,63})(?P<between>=)(?P<value>(?!\$[\w(]|\$\{\w+\}|\$\{\{|=)[^\s\"']+)"
)
_PLAIN = re.compile(  # api_key: x, password = x, as YAML and INI files have it
    r"""(?m)^(?P<lead>[+\- ]?[ \t]*(?:- +)?(?:(?:export|ENV|ARG|set) +)?["']?)(?P<name>[A-Za-z_][\w.\-]{0,63})"""
    r"""(?P<between>["']?[ \t]*[:=][ \t]*)(?P<value>[^\s"']+)(?P<after>[ \t\r]*(?:[ \t]#.*)?)$"""
)
_EXPRESSION = re.compile(r"[(\[]|^[$<{*&!|>:=]|[,:\\]$")
_QUERY = re.compile(r"(?P<between>[?&](?P<name>[A-Za-z_][\w.\-]{0,63})=)(?P<value>[^&\s\"'#<>]+)")
_WEBHOOK = re.compile(r"(hooks\.slack\.com/\w+/|discord(?:app)?\.com/api/webhooks/)[\w/+-]+")
_URL_USER = re.compile(r"(?P<scheme>\b(?!ssh:)[A-Za-z][\w+.-]{0,20}://)[^/\s?#'\"]*@|(?P<ssh>\bssh://[^/\s:@]*):[^/\s@]*@")
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
        if named and not argument.startswith("--"):
            masked.append(MASK)
            named = False
        else:
            masked.append(_mask_argument(argument))
            named = re.fullmatch(rf"--?{_NAME}", argument) is not None and is_secret(argument)
    return tuple(masked)


def _mask_argument(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if equals and value and re.fullmatch(rf"[-+~]*{_NAME}", name) and is_secret(name):
        return f"{name}={MASK}"
    text, at, parts = mask_text(argument), 0, []
    for given in _GIVEN.finditer(text):
        if given.start() < at or not is_secret(given["name"]):
            continue
        if (secret := _VALUE.match(text, given.end())) is not None:
            quote = secret["quote"] or ""
            parts.append(f"{text[at : given.end()]}{quote}{MASK}{quote}")
            at = secret.end()
    return "".join([*parts, text[at:]])


def mask_text(text: str) -> str:
    """Return a text without tokens of a known format, private keys, passwords in URLs, and literals that are given to a
    name which is one of a secret."""
    text = _PEM.sub(rf"\1 {MASK} \2", text)
    text = _URL_USER.sub(lambda m: f"{m['scheme']}{MASK}@" if m["scheme"] else f"{m['ssh']}:{MASK}@", text)
    text = _TOKENS.sub(MASK, _WEBHOOK.sub(rf"\1{MASK}", _QUERY.sub(_mask_query, text)))
    text = _HEADER.sub(rf"\1 {MASK}", text)
    text = _LOGIN.sub(_masked, _SECOND.sub(_mask_second, _LITERAL.sub(_mask_value, text)))
    return _PLAIN.sub(_mask_plain, _VARIABLE.sub(_mask_value, text))


def _masked(match: re.Match[str]) -> str:
    """Return what was found, with a mask in the place of its group "value"."""
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match[0][:start]}{quote}{MASK}{quote}{match[0][end:]}"


def _mask_value(match: re.Match[str]) -> str:
    return _masked(match) if is_secret(match["name"]) else match[0]


def _mask_second(match: re.Match[str]) -> str:
    value = match["value"].strip("\"'")
    is_name = value.startswith("-") or value.replace("_", "-") == match["name"].replace("_", "-")
    return match[0] if is_name else _mask_value(match)


def _mask_plain(match: re.Match[str]) -> str:
    value, name = match["value"], match["name"].rpartition(".")[2]
    owner, _, last = value.rpartition(".")
    is_reference = last == name or (owner.isidentifier() and last.isidentifier() and is_secret(last))  # = args.password
    if is_reference or value.lower() in _NO_VALUES or _EXPRESSION.search(value):
        return match[0]
    return _mask_value(match)


def _mask_query(match: re.Match[str]) -> str:
    return _masked(match) if is_secret(match["name"]) or _LINKS.intersection(_words(match["name"])[-1:]) else match[0]


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.strip("-+~"))]


def is_secret(name: str) -> bool:
    """True if a variable or option of this name has a secret."""
    lower = _words(name)
    if not lower or lower[-1] in _ABOUT:
        return False
    if _ANYWHERE.search("".join(lower)) or _WORDS.intersection(lower):
        return True
    before = lower[-2] if len(lower) > 1 else ""
    if lower[-1] == "key":
        return len(before) > 1 and before not in _KEYS
    return (lower[-1] == "token" and before not in _VOCABULARY) or (lower[-1] == "pass" and before not in _PASSES)
