#!/bin/sh
# The responder's user in Slurm's accounting: run once, as an administrator of Slurm. Enough for hold_job, requeue_hold, cancel_job and
# limit_user; drain_node needs tocsin-nodes.sh besides. The user must exist on the node of slurmctld; it may submit no job itself.
set -eu
sacctmgr -i add account tocsin Description="Tocsin responder" Organization=security
sacctmgr -i add user tocsin Account=tocsin DefaultAccount=tocsin AdminLevel=Operator MaxSubmitJobs=0
