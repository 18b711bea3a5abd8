"""Peer groups as a table: a group's number is its slot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.profiles import Fields, Table

#: Most peer groups. Group 0 is everyone who is in none.
PEERS = 64


def peer_table(name: str, fields: Mapping[str, Fields]) -> Table:
    """A table in which every group has its slot from the start, so that slot 0 is group 0 whichever group is met first.

    >>> table = peer_table("actor.peer", {"rate": (("seen", "f4"),)})
    >>> table.used, table.limit
    (64, 64)
    """
    table = Table(name, fields, PEERS)
    # Key 0 marks a free place of an index and cannot be told from key 1.
    table.find(np.arange(1, PEERS + 1, dtype=np.uint64), np.empty(PEERS, np.int32), 0, PEERS)
    return table
