#!/bin/sh
# Opt-in, for drain_node: slurmctld lets only an administrator change a node, and an administrator may change everything.
set -eu
sacctmgr -i modify user where Name=tocsin set AdminLevel=Administrator
