"""Fixtures of every test module."""

from tests.kube import kube as kube
