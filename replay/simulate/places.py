"""Where everything sits, and units of size."""

from __future__ import annotations

from typing import NamedTuple

GB = 1_000_000_000
MB = 1_000_000

#: Hosts that every factory has, by what they serve.
APISERVER = "10.10.1.2"
REGISTRY = "10.10.1.5"
KEYCLOAK = "10.10.1.8"
INGRESS = "10.10.1.10"
GIT = "10.10.1.20"
WIKI = "10.10.1.21"
MAIL = "10.10.1.25"
SLURM_LOGIN = "10.10.1.30"
QUEUE = "10.10.1.40"
DNS = "10.10.1.53"
NTP = "10.10.1.123"
STORAGE = ("10.10.3.10", "10.10.3.11", "10.10.3.12", "10.10.3.13")
SCANNER = "10.10.2.200"
OFFSITE = "198.51.100.250"


class Hosts(NamedTuple):
    """The servers that attacks have to do with."""

    apiserver: str = APISERVER
    registry: str = REGISTRY
    keycloak: str = KEYCLOAK
    ingress: str = INGRESS
    dns: str = DNS
    login: str = SLURM_LOGIN
    storage: str = STORAGE[0]
    registry_name: str = "registry.factory.example"


def address(prefix: str, number: int) -> str:
    """The ``number``-th address of a /16 given as its first two octets; .0 and .255 are left out."""
    return f"{prefix}.{number // 254 % 256}.{number % 254 + 1}"
