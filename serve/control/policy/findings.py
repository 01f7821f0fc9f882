"""Finds secrets (by detect-secrets) and personal data (numbers checked by python-stdnum) in text.

Both packages are optional: `pip install 'fusion-cluster[privacy]'`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

#: detect-secrets' detectors that know a secret by its form. Those that go by entropy or by words
#: such as "password" find too much in prose.
_DETECTORS = (
    ("artifactory", "ArtifactoryDetector"),
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("basic_auth", "BasicAuthDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("jwt", "JwtTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("npm", "NpmDetector"),
    ("openai", "OpenAIDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)
#: Some detectors take time by the square of a line's length, so a long one is looked at in pieces.
#: Each begins half-way through the one before: a secret of half a piece stands in one as a whole.
_PIECE = 4000
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_EMAIL = re.compile(r"[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_PHONE = re.compile(r"(?<![\w+])\+\d{1,3}[ ().-]{0,2}\d(?:[ ().-]{0,2}\d){6,12}(?!\d)")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")


def find(text: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(kind, found text) of everything of these kinds that stands in `text`."""
    for kind in kinds:
        for found in dict.fromkeys(_FINDERS[kind](text)):
            yield kind, found


def redact(text: str, kinds: tuple[str, ...]) -> str:
    """`text` with everything found replaced by its kind in brackets."""
    # The longest first: a piece of one secret may be found as another.
    found = sorted(find(text, kinds), key=lambda one: len(one[1]), reverse=True)
    for kind, secret in found:
        text = text.replace(secret, f"[{kind} removed]")
    return text


@cache
def _detectors() -> tuple[Any, ...]:
    return tuple(
        getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
        for module, name in _DETECTORS
    )


def _secrets(text: str) -> Iterator[str]:
    yield from (match[0] for match in _PRIVATE_KEY.finditer(text))
    for line in text.splitlines():
        for piece in _pieces(line):
            for detector in _detectors():
                yield from (found for found in detector.analyze_string(piece) if found)


def _pieces(line: str) -> Iterator[str]:
    step = _PIECE // 2
    for at in range(0, max(1, len(line) - step), step):
        yield line[at : at + _PIECE]


def _matching(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    return lambda text: (match[0] for match in pattern.finditer(text))


def _cards(text: str) -> Iterator[str]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if digits[0] in "23456" and luhn.is_valid(digits):
            yield match[0]


def _ibans(text: str) -> Iterator[str]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        # The pattern may run on into the words behind the number.
        words = match[0].split(" ")
        for end in range(len(words), 0, -1):
            if iban.is_valid(number := " ".join(words[:end])):
                yield number
                break


_FINDERS: dict[str, Callable[[str], Iterator[str]]] = {
    "secrets": _secrets,
    "email": _matching(_EMAIL),
    "phone": _matching(_PHONE),
    "card": _cards,
    "iban": _ibans,
}
