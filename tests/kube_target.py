"""``tocsin`` with the Kubernetes adapter, dying where it is told: see ``tests/fake_target.py``."""

from __future__ import annotations

from connectors.containment.kubernetes import Kubernetes
from tests.fake_target import main

if __name__ == "__main__":
    main(Kubernetes, "kubernetes")
