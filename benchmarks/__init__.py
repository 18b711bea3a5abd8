"""Measurements, each one command, each against a reference in the same run."""
