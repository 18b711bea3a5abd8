"""The four cores in the order of a record: ingest, score, fuse, respond; and the shells that feed them."""
