"""Which hosts a tool may go to or tell of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


def permits(url: str, allowed: Sequence[str], excluded: Sequence[str]) -> bool:
    """Whether this address is at one of the allowed hosts (none named: any) and at none of the
    excluded. A host stands for all hosts under it too; what has no host is at none."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        host = ""
    return (not allowed or _under(host, allowed)) and not _under(host, excluded)


def _under(host: str, domains: Sequence[str]) -> bool:
    return any(f".{host}".endswith(f".{domain.lower()}") for domain in domains)
