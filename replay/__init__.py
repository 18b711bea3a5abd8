"""The `tocsin` command: replays traces, simulates an AI factory, explains alerts."""
